"""The experiments, by name."""

from pipeline.experiment import Experiment
from pipeline.experiments.approximation import APPROXIMATION
from pipeline.experiments.attention import ATTENTION
from pipeline.experiments.diagnostics import DIAGNOSTICS
from pipeline.experiments.epsilon_rank import EPSILON_RANK
from pipeline.experiments.spectrum import SPECTRUM

EXPERIMENTS: dict[str, Experiment] = {
    each.name: each for each in (APPROXIMATION, ATTENTION, DIAGNOSTICS, EPSILON_RANK, SPECTRUM)
}
