"""The experiments, by name."""

from pipeline.experiment import Experiment
from pipeline.experiments.approximation import APPROXIMATION

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in (APPROXIMATION,)}
