"""The experiments, by name: those of this package, and a user's own."""

import os
from dataclasses import replace

from pipeline.errors import InputError, shown
from pipeline.experiment import Experiment
from pipeline.experiments.approximation import APPROXIMATION
from pipeline.experiments.attention import ATTENTION
from pipeline.experiments.diagnostics import DIAGNOSTICS
from pipeline.experiments.epsilon_rank import EPSILON_RANK
from pipeline.experiments.spectrum import SPECTRUM
from pipeline.own_code import imported

ALLOW_CODE = "EPSWEEP_ALLOW_CODE"
EXPERIMENTS: dict[str, Experiment] = {
    each.name: each for each in (APPROXIMATION, ATTENTION, DIAGNOSTICS, EPSILON_RANK, SPECTRUM)
}


def code_allowed() -> bool:
    """Whether whoever started this process allows code of a user's own, by environment variable."""
    return os.environ.get(ALLOW_CODE, "").lower() in ("1", "true", "yes", "on")


def get_experiment(name: object, *, allow_code: bool) -> Experiment:
    """Look an experiment up by name, or import a user's own given as ``module:NAME``.

    Parameters
    ----------
    name : str
    allow_code : bool
        Whether a module may be imported, which runs its code.

    Raises
    ------
    InputError
        If it is not known, not allowed, or not an `Experiment`.
    """
    if isinstance(name, str) and name in EXPERIMENTS:
        return EXPERIMENTS[name]
    if not isinstance(name, str) or ":" not in name:
        known = ", ".join(EXPERIMENTS)
        raise InputError(f"experiment: {shown(name)} is not known; use one of {known}, or your own as module:NAME")
    if not allow_code:
        raise InputError(
            f"experiment: {shown(name)} is code of your own; add --allow-code, or set {ALLOW_CODE}=1, if you trust it"
        )
    found = imported("experiment", name)
    if not isinstance(found, Experiment):
        raise InputError(f"experiment: {shown(name)} is a {type(found).__name__}; make it with matrix_experiment")
    return replace(found, name=name)
