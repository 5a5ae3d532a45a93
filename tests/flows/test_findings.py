"""Findings recover what curves were made of, from complete curves only, and stand in the report."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from flows.findings import findings
from flows.report import Finding, report_page, write_report
from pipeline.experiment import Case, Outcome
from pipeline.experiments import EXPERIMENTS
from pipeline.grid import parse_sweep
from storage import Status, Writer, open_results

APPROXIMATION, SPECTRUM, RANKS = (EXPERIMENTS[name] for name in ("approximation", "spectrum", "epsilon_rank"))
SPEC = """
name: findings
grid:
  - function: [exponential]
    sampling: [ball-symmetric]
    m: [1, 10, 100, 300, 1000]
    n: [100, 200, 400, 800, 1600, 3200]
    r: [5, 10, 20, 40, 400]
    method: [svd, ap]
    seeds: 5
    where: r <= n
"""
SINGULAR = """
name: singular
experiment: spectrum
grid:
  - function: [sign, white_noise]
    sampling: [gaussian-independent]
    m: [1, 10, 50]
    n: [100, 200, 400, 800]
    k: [1, 2]
    seeds: 5
"""


def noise(case: Case, size: float = 0.02) -> float:
    """A factor of each trial and one of each cell, which stay the same from run to run."""
    trial = np.random.default_rng(case["seed"]).standard_normal()
    cell = np.random.default_rng([case["seed"], case["m"], case["n"], case["r"]]).standard_normal()
    return float(np.exp(0.3 * trial + size * cell))


def error(case: Case) -> float:
    """Falls as r^(-1/2), is flat in m from 100 on and grows as √log n; that of `ap` is a third."""
    level = 1.0 if case["method"] == "svd" else 1 / 3
    return level * case["r"] ** -0.5 * min(1.0, case["m"] / 100) ** 0.3 * np.log(case["n"]) ** 0.5 * noise(case)


def approximated(case: Case) -> Outcome:
    value = error(case)
    return Outcome({"epsilon": value, "lower_bound": value / 9, "max_norm": 1, "iterations": 1, "seconds": 1})


def singular(case: Case) -> Outcome:
    generator = np.random.default_rng([case["seed"], case["m"], case["n"]])
    rank = 3.0 if case["function"] == "sign" else 0.72 * case["n"]
    rank *= case["m"] * np.exp(0.02 * generator.standard_normal())
    return Outcome({"sigma": 1 / case["k"], "ratio": 1, "effective_rank": rank, "stable_rank": 1, "seconds": 1})


def fill(path: Path, text: str, compute: Callable[[Case], Outcome]) -> Path:
    """Make the store of a sweep with invented outcomes."""
    sweep = parse_sweep(text)
    with Writer.open(path, sweep) as writer:
        cells = np.argwhere(sweep.wanted)
        writer.write(cells, [compute(sweep.case(cell)) for cell in cells])
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("findings") / "findings.zarr", SPEC, approximated)


@pytest.fixture(scope="module")
def spectra(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("findings") / "singular.zarr", SINGULAR, singular)


@pytest.fixture
def ds(store) -> xr.Dataset:
    return open_results(store).load()


def fits(ds: xr.Dataset) -> list[Finding]:
    """The findings that are fits."""
    return [finding for finding in findings(ds, APPROXIMATION) if finding.section == "Fits"]


def of(found: list[Finding], name: str) -> list[Finding]:
    chosen = [finding for finding in found if finding.name == name]
    assert chosen, f"no finding is called {name!r}"
    return chosen


def without(ds: xr.Dataset, status: Status, **cell: object) -> xr.Dataset:
    """Results in which cells are not done, with the values that those of a store have."""
    chosen = xr.ones_like(ds["status"], dtype=bool)
    for axis, label in cell.items():
        chosen &= ds[axis] == label
    return ds.assign(status=ds["status"].where(~chosen, status), epsilon=ds["epsilon"].where(~chosen))


def test_power_of_r_is_recovered_with_an_interval_that_holds_it(ds):
    powers = of(findings(ds, APPROXIMATION), "power of r in epsilon")
    for finding in powers:
        assert finding.section == "Fits"
        assert finding.estimate == pytest.approx(-0.5, abs=0.03)
        low, high = finding.interval
        assert low <= finding.estimate <= high
        assert high - low < 0.15
        assert finding.expected.startswith("-1/2 away from r")
    # at the level of 95 %, and curves of one trial share its noise
    assert np.mean([finding.interval[0] <= -0.5 <= finding.interval[1] for finding in powers]) > 0.85


def test_every_complete_curve_has_a_finding(ds):
    found = findings(ds, APPROXIMATION)
    # r ≤ n / 4 leaves three labels or more from n = 100 on: 5, 10, 20
    assert len(of(found, "power of r in epsilon")) == 5 * 6 * 2
    # r ≤ n / 2 leaves three sizes at r = 400
    assert len(of(found, "power of n in epsilon")) == len(of(found, "power of log n in epsilon")) == 5 * 5 * 2
    flat = of(found, "largest median of epsilon over m, divided by the smallest")
    assert len(flat) == 2 * (4 * 6 + 4)  # every r and n, but r ≤ n
    assert len({(finding.name, finding.where) for finding in found}) == len(found)


def test_curves_end_where_nothing_is_expected(ds):
    found = findings(ds, APPROXIMATION)
    ends = {
        "power of r in epsilon": {
            "n = 100, method = svd, r from 5 to 20",
            "n = 200, method = svd, r from 5 to 40",
            "n = 1600, method = svd, r from 5 to 400",
        },
        "power of n in epsilon": {
            "r = 40, method = ap, n from 100 to 3200",
            "r = 400, method = ap, n from 800 to 3200",
        },
        "largest median of epsilon over m, divided by the smallest": {
            "n = 800, r = 5, method = ap, m from 100 to 1000"
        },
    }
    for name, endings in ends.items():
        for ending in endings:
            assert any(finding.where.endswith(ending) for finding in of(found, name)), ending


def test_flatness_in_m_is_that_of_large_m_alone(ds):
    for finding in of(findings(ds, APPROXIMATION), "largest median of epsilon over m, divided by the smallest"):
        assert 1 <= finding.estimate < 1.15  # from m = 1 on it is 4
        assert finding.interval is None
        assert finding.expected.startswith("near 1")


def test_logarithmic_growth_is_recovered_and_told_from_powers(store, tmp_path):
    def quiet(case: Case) -> Outcome:
        value = error(case) / noise(case) * noise(case, 0.001)
        return Outcome(approximated(case).values | {"epsilon": value})

    found = findings(open_results(fill(tmp_path / "quiet.zarr", SPEC, quiet)), APPROXIMATION)
    whole = [each for each in of(found, "power of log n in epsilon") if "n from 100 to 3200" in each.where]
    for finding in whole:
        assert finding.estimate == pytest.approx(0.5, abs=0.02)
    assert np.mean([finding.interval[0] <= 0.5 <= finding.interval[1] for finding in whole]) > 0.8
    assert np.mean([finding.expected == "best described: logarithmic" for finding in whole]) > 0.9
    for finding in of(found, "power of n in epsilon"):
        assert 0 < finding.estimate < 0.15
        assert finding.expected.startswith("slow")


def test_theorem_stands_beside_every_median_that_it_is_about(ds):
    bound = APPROXIMATION.theory[0]
    medians = ds["epsilon"].median("seed")
    found = [each for each in findings(ds, APPROXIMATION) if each.expected.startswith(bound.label)]
    labels = np.meshgrid(*(medians[axis].values for axis in medians.dims), indexing="ij")
    columns = {str(axis): each.ravel() for axis, each in zip(medians.dims, labels, strict=True)}
    about = np.isfinite(bound.values(columns)) & np.isfinite(medians.values.ravel())
    assert 0 < len(found) == about.sum() < 150
    measured = []
    for finding in found:
        labels = dict(part.split(" = ") for part in finding.where.split(", "))
        n, r = int(labels["n"]), int(labels["r"])
        assert finding.name == "median of epsilon"
        assert finding.expected == f"{bound.label} = {np.sqrt(9 * np.log(3 * n**2) / r):.4g}"
        median = float(
            medians.sel({axis: int(label) if label.isdecimal() else label for axis, label in labels.items()})
        )
        assert finding.estimate == pytest.approx(median)
        measured.append(median)
    assert measured == sorted(measured, reverse=True)
    assert measured[0] == medians.values.ravel()[about].max()


def test_effective_rank_is_constant_or_in_proportion_to_n(spectra):
    found = findings(open_results(spectra), SPECTRUM)
    along_n = of(found, "power of n in effective_rank")
    assert len(along_n) == 2 * 3  # of no k, along which it is the same
    for finding in along_n:
        truth = 0 if "function = sign" in finding.where else 1
        assert finding.estimate == pytest.approx(truth, abs=0.05)
        assert finding.interval[0] - 0.02 <= truth <= finding.interval[1] + 0.02
    for finding in of(found, "power of m in effective_rank"):
        assert finding.estimate == pytest.approx(1, abs=0.03)
    assert not any("k =" in finding.where for finding in found)


@pytest.mark.parametrize("status", [Status.MISSING, Status.FAILED])
def test_points_of_which_a_trial_is_missing_or_failed_are_left_out(ds, status):
    at = {"m": 1000, "n": 800, "method": "ap"}
    where = "m = 1000, n = 800, method = ap"
    curve = next(each for each in of(findings(ds, APPROXIMATION), "power of r in epsilon") if where in each.where)
    assert curve.where.endswith("r from 5 to 40")
    lacking = findings(without(ds, status, **at, r=5, seed=2), APPROXIMATION)
    curve = next(each for each in of(lacking, "power of r in epsilon") if where in each.where)
    assert curve.where.endswith("r from 10 to 40")
    assert curve.estimate == pytest.approx(-0.5, abs=0.05)
    fewer = without(without(ds, status, **at, r=5, seed=2), status, **at, r=10, seed=0)  # two labels are left
    assert not any(where in each.where for each in of(findings(fewer, APPROXIMATION), "power of r in epsilon"))


def test_trials_that_were_never_wanted_are_no_loss(ds):
    fewer = findings(without(ds, Status.SKIPPED, seed=4), APPROXIMATION)
    assert len(fewer) == len(findings(ds, APPROXIMATION))


def test_curves_of_two_points_say_nothing(ds):
    two = ds.sel(n=[800, 1600], r=[10, 20], m=[300, 1000])
    assert fits(two) == []


def test_one_trial_has_no_interval(ds):
    for finding in fits(ds.sel(seed=[1])):
        assert finding.interval is None
        assert np.isfinite(finding.estimate)


def test_curves_through_zero_are_left_out(ds):
    zero = ds.assign(epsilon=ds["epsilon"].where(ds["r"] != 10, 0.0))
    for finding in of(findings(zero, APPROXIMATION), "power of n in epsilon"):
        assert "r = 10," not in finding.where


@pytest.mark.parametrize("name", ["attention", "diagnostics"])
def test_experiments_that_expect_nothing_have_no_findings(ds, name):
    assert EXPERIMENTS[name].expectations == ()
    assert findings(ds, EXPERIMENTS[name]) == []


def test_store_in_which_nothing_is_done_has_no_findings(ds):
    empty = ds.assign(status=xr.full_like(ds["status"], Status.MISSING), epsilon=ds["epsilon"] * np.nan)
    assert findings(empty, APPROXIMATION) == []
    assert findings(without(ds, Status.MISSING, seed=4), APPROXIMATION) == []  # no curve has all of its trials


def test_ranks_that_do_not_grow_are_constant(tmp_path):
    text = SINGULAR.replace("spectrum", "epsilon_rank").replace(
        "k: [1, 2]", "tolerance: [0.1, 0.2, 0.4]\n    method: [svd]"
    )

    def ranked(case: Case) -> Outcome:
        rank = {0.1: 40, 0.2: 10, 0.4: 3}[case["tolerance"]] + (case["seed"] == 0)
        return Outcome({"rank": rank, "lower_bound": 1, "error": 0.1, "max_norm": 1, "iterations": 0, "seconds": 1})

    found = findings(open_results(fill(tmp_path / "ranks.zarr", text, ranked)), RANKS)
    for finding in of(found, "power of n in rank"):
        assert finding.estimate == 0
        assert finding.interval == (0, 0)
    assert {finding.expected for finding in of(found, "power of log n in rank")} == {"best described: constant"}
    for finding in of(found, "power of tolerance in rank"):
        assert finding.estimate == pytest.approx(np.log(3 / 40) / np.log(4), abs=0.1)


def test_rows_of_one_kind_are_bounded(ds):
    copies = [f"exponential(scale={number})" for number in range(1, 10)]
    many = xr.concat([ds.assign_coords(function=[name]) for name in copies], "function")
    found = findings(many, APPROXIMATION)
    kinds = [each.name for each in found]
    assert kinds.count("power of r in epsilon") == 150
    assert kinds.count("median of epsilon") == 150 * len(APPROXIMATION.theory)
    assert kinds.count("power of n in epsilon") == kinds.count("power of log n in epsilon") == 150
    more = {each.name: each.where for each in found if "left out" in each.where}
    assert set(more) == {*(f"epsilon along {axis}" for axis in "rnm"), *(bound.label for bound in APPROXIMATION.theory)}
    curves = len([each for each in findings(ds, APPROXIMATION) if each.name == "power of r in epsilon"])
    assert more["epsilon along r"] == f"{9 * curves - 150} more are left out here"


def shown(page: str) -> list[list[str]]:
    """Rows of the tables of fits."""
    _, _, after = page.partition("<h2>Fits</h2>")
    tables, _, _ = after.partition("</section>")
    rows = re.findall(r"<tr>(.*?)</tr>", tables, re.DOTALL)
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<td[^>]*>.*?</td>", row, re.DOTALL)]
        for row in rows
    ]


def assert_in_page(page: str, found: list[Finding]) -> None:
    rows = [row for row in shown(page) if row]
    kinds = list(dict.fromkeys(each.name for each in found))  # in whose order the page has them
    for row, finding in zip(rows, sorted(found, key=lambda each: kinds.index(each.name)), strict=True):
        assert row[:2] == [finding.name, finding.where]
        assert row[3] == f"{finding.estimate:.4g}"
        expected = "–" if finding.interval is None else "[{:.4g}, {:.4g}]".format(*finding.interval)
        assert row[4] == expected


def test_report_shows_every_finding_with_estimate_and_interval(store, ds, tmp_path):
    found = fits(ds)
    assert_in_page(report_page("findings.zarr", ds, APPROXIMATION, found), found)
    assert_in_page(write_report(store, tmp_path, found).read_text(encoding="utf-8"), found)


def test_report_without_findings_has_no_table_of_them(ds):
    assert "<h2>Fits</h2>" not in report_page(
        "findings.zarr", ds, APPROXIMATION, findings(ds, EXPERIMENTS["attention"])
    )
