"""The command `curves`: whose medians it writes."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.cli import main
from pipeline.experiment import Outcome
from pipeline.grid import parse_sweep
from storage import Writer
from tests.flows.test_cli import refused, spec_text

TRIALS = (3.0, 1.0, 8.0)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of which each quantity is a multiple of the invented values of three trials."""
    sweep = parse_sweep(spec_text())
    cells = np.argwhere(sweep.wanted)
    factors = {"epsilon": 1, "lower_bound": 0.5, "max_norm": 2, "iterations": 10, "seconds": 0.25}
    trials = [TRIALS[sweep.case(cell)["seed"]] for cell in cells]
    with Writer.open(tmp_path / "s.zarr", sweep) as writer:
        writer.write(cells, [Outcome({name: factor * each for name, factor in factors.items()}) for each in trials])
    return tmp_path / "s.zarr"


def test_curves_are_of_the_main_quantity_unless_another_is_named(store, capsys):
    main(["curves", str(store)])
    printed = capsys.readouterr().out
    assert list(pd.read_csv(io.StringIO(printed)))[6:11] == [
        f"epsilon{end}" for end in ("", "_min", "_q25", "_q75", "_max")
    ]
    main(["curves", str(store), "--quantity", "epsilon"])
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(("quantity", "factor"), [("iterations", 10), ("seconds", 0.25), ("lower_bound", 0.5)])
def test_curves_of_a_named_quantity_are_its_median_and_extremes(quantity, factor, store, tmp_path, capsys):
    main(["curves", str(store), "--quantity", quantity, "--out", str(tmp_path / "new" / "curves.csv")])
    assert capsys.readouterr().out == f"2 rows: {tmp_path / 'new' / 'curves.csv'}\n"
    frame = pd.read_csv(tmp_path / "new" / "curves.csv")
    assert "epsilon" not in frame
    for end, value in {"": 3, "_min": 1, "_max": 8}.items():
        assert (frame[f"{quantity}{end}"] == factor * value).all()


@pytest.mark.parametrize("quantity", ["speed", "", "status", "r"])
def test_curves_of_an_unknown_quantity_are_refused(quantity, store, tmp_path, capsys):
    line = refused(capsys, "curves", store, "--quantity", quantity, "--out", tmp_path / "c.csv")
    known = "epsilon, lower_bound, max_norm, iterations, guarantee, seconds"
    assert line == f"quantity: {quantity!r} is not in the store; use one of {known}\n"
    assert not (tmp_path / "c.csv").exists()
