"""Colours of lines, the same in figures and reports."""

from collections.abc import Sequence

from pipeline.approximation import METHODS
from pipeline.experiment import Label

# Okabe and Ito's colours, which most colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def line_places(axis: str, labels: Sequence[Label]) -> list[int]:
    """Place of each label in lists of colours and markers: a method has the same in every sweep."""
    if axis == "method" and all(label in METHODS for label in labels):
        return [list(METHODS).index(str(label)) for label in labels]
    return list(range(len(labels)))
