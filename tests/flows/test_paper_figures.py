"""The shipped figures of the papers, on grids smaller still: they run, are drawn, and show what the papers claim.

Medians are compared with those in ``paper_medians.json``, which ``python tests/flows/test_paper_figures.py`` writes
anew. Singular values and what follows from them by rounding alone agree to 1e-6 (ranks exactly). The iterative methods
amplify the rounding of the linear algebra library, which differs between machines, so that the last digits of their
errors are its own: `ap`, `minimax` and non-negative factors agree to 5 %, or to one rank; what follows from an error
that they did not minimise, to a half.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import xarray as xr
import yaml
from threadpoolctl import threadpool_limits

from flows.figures import plot_curves
from flows.findings import findings
from flows.specs import shipped_sweeps
from pipeline import approximate
from pipeline.grid import Range, RealRange, Sweep, load_sweep, parse_sweep
from storage import Status, Writer, median_curves, open_results

MEDIANS = Path(__file__).with_name("paper_medians.json")
FULL = ["fig-000-5.1", "fig-001-1", "fig-001-2", "fig-001-3", "fig-001-4", "fig-002-a", "fig-002-b"]
FIGURES = [f"{name}-small" for name in FULL]
SMALL = [*FIGURES, "attention", "diagnostics", "latent-models"]
ERRORS = [name for name in SMALL if name.startswith(("fig-001-2", "fig-001-3", "fig-001-4"))]
TRIALS = 3
LARGEST = {"r": 50, "k": 50}
ROUNDING = 1e-12  # of singular values that are zero


def labels(values: object) -> list:
    """Labels of an axis, listed in a block of a specification or spanned by a range."""
    if not isinstance(values, dict):
        return values
    kind = Range if isinstance(values["from"], int) else RealRange
    return kind.model_validate(values).labels()


def thinned(values: list, held: list) -> list:
    """Labels at which figures are held, or the first, a middle and the last one."""
    kept = [label for label in values if label in held]
    return kept or [values[i] for i in sorted({0, len(values) // 2, len(values) - 1})]


def smaller(path: Path) -> str:
    """A shipped specification with few trials, few small labels, few functions and the quick budget."""
    document = yaml.safe_load(re.sub(r"\b1e-4\b", "1.0e-4", path.read_text()))  # a text in YAML 1.1
    for block in document["grid"]:
        block["seeds"] = TRIALS
        iterated = {"ap", "minimax"} & set(block.get("method", []))
        largest = LARGEST | {"n": 200 if iterated else 400}
        least = {"m": 100} if path.stem.startswith("fig-001") else {}
        for axis in sorted({"m", "n", "r", "k", "tolerance"} & set(block)):
            held = [figure["at"][axis] for figure in document["figures"] if axis in figure.get("at", {})]
            some = [each for each in labels(block[axis]) if least.get(axis, 0) <= each <= largest.get(axis, np.inf)]
            block[axis] = thinned(some, held)
        if path.stem in ("fig-001-2-small", "fig-001-4-small"):
            block["function"] = block["function"][:1]  # the sweep along r has them all
        if iterated:
            document["settings"]["minimax"] = {"budget": "quick"}
    return yaml.safe_dump(document, allow_unicode=True)


def compute(sweep: Sweep, store: Path) -> xr.Dataset:
    """Run a sweep here, without a server; its store."""
    cells = np.argwhere(sweep.wanted)
    with threadpool_limits(1), Writer.open(store, sweep) as writer:
        writer.write(cells, list(sweep.experiment.run([sweep.case(cell) for cell in cells], sweep.settings)))
    return open_results(store).load()


def medians(sweep: Sweep, ds: xr.Dataset) -> dict[str, dict[str, float]]:
    """Medians of the main quantity and of those that figures show, by the labels of their point."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys([sweep.experiment.main, *(figure.y for figure in sweep.figures)]):
        (quantity,) = (each for each in sweep.experiment.quantities if each.name == name)
        curve = median_curves(ds, name)[name].isel(dict.fromkeys(quantity.along, 0), drop=True)
        frame = curve.to_dataframe()[name].dropna()
        keys = [
            ", ".join(f"{axis}={label}" for axis, label in zip(curve.dims, index, strict=True)) for index in frame.index
        ]
        found[name] = {key: float(f"{value:.10g}") for key, value in zip(keys, frame, strict=True)}
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Callable[[str], tuple[Sweep, xr.Dataset]]:
    """A shipped sweep, smaller still, and its store; each is computed once."""
    folder = tmp_path_factory.mktemp("papers")
    known: dict[str, tuple[Sweep, xr.Dataset]] = {}

    def run(name: str) -> tuple[Sweep, xr.Dataset]:
        if name not in known:
            path = folder / f"{name}.yaml"
            path.write_text(smaller(shipped_sweeps()[name]))
            sweep = load_sweep(path)
            known[name] = sweep, compute(sweep, folder / f"{name}.zarr")
        return known[name]

    return run


def curves(ran: Callable[[str], tuple[Sweep, xr.Dataset]], name: str, **labels: object) -> xr.DataArray:
    """Medians of the main quantity of a sweep."""
    sweep, ds = ran(name)
    return median_curves(ds, sweep.experiment.main)[sweep.experiment.main].sel(labels)


def test_every_figure_of_the_papers_is_shipped_with_a_small_twin():
    shipped = [name for name in shipped_sweeps() if name.startswith("fig-")]
    assert set(FULL) <= set(shipped)
    assert {f"{name.removesuffix('-small')}-small" for name in shipped} <= set(shipped)
    assert {name.removesuffix("-small") for name in shipped} <= set(shipped)


@pytest.mark.parametrize("name", [name for name in shipped_sweeps() if name.startswith("fig-")])
def test_every_figure_of_the_papers_declares_figures_that_its_grid_can_fill(name):
    sweep = load_sweep(shipped_sweeps()[name])
    assert sweep.name == name
    assert sweep.figures
    for figure in sweep.figures:
        assert len(sweep.labels[figure.x]) >= 2
        for axis, label in figure.at.items():
            assert label in sweep.labels[axis]
    if name.endswith("-small"):
        full = load_sweep(shipped_sweeps()[name.removesuffix("-small")])
        assert full.experiment is sweep.experiment
        assert sweep.used_settings == full.used_settings
        assert [each.name for each in sweep.figures] == [each.name for each in full.figures][: len(sweep.figures)]
        assert max(sweep.labels["n"]) < max(full.labels["n"])
        for axis in ("function", "sampling", "method"):
            assert sweep.labels.get(axis) == full.labels.get(axis)


@pytest.mark.parametrize("name", SMALL)
def test_smaller_sweep_runs_to_the_end_and_all_its_figures_appear(name, ran, tmp_path):
    sweep, ds = ran(name)
    assert set(np.unique(ds["status"].values)) <= {Status.DONE, Status.SKIPPED}
    assert int((ds["status"] == Status.DONE).sum()) == int(sweep.wanted.sum())
    written = plot_curves(ds, sweep.experiment, tmp_path, {})
    assert [path.stem for path in written] == [figure.name for figure in sweep.figures]
    for path in written:
        ink = matplotlib.image.imread(path)[..., :3]
        assert ink.std() > 0.05  # not blank
        assert all((border == 1).all() for border in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))  # nor cut off
        assert "</svg>" in path.with_suffix(".svg").read_text()[-20:]


@pytest.mark.parametrize("name", SMALL)
def test_medians_are_those_that_were_found_before(name, ran):
    expected = json.loads(MEDIANS.read_text())[name]
    found = medians(*ran(name))
    assert found.keys() == expected.keys()
    for quantity, values in expected.items():
        assert found[quantity].keys() == values.keys()
        for key, value in values.items():
            iterated = re.search("method=(ap|minimax)", key) is not None or quantity.startswith("nonnegative")
            followed = quantity in ("output_error", "theorem_rank")
            relative = (0.5 if followed else 0.05) if iterated else 0 if quantity == "rank" else 1e-6
            absolute = 1 if quantity == "rank" and iterated else ROUNDING
            assert found[quantity][key] == pytest.approx(value, rel=relative, abs=absolute), (quantity, key)


@pytest.mark.parametrize("name", [name for name in FIGURES if not name.startswith("fig-002")])
def test_no_lower_bound_is_above_what_was_found(name, ran):
    sweep, ds = ran(name)
    done = ds["status"] == Status.DONE
    assert bool((ds["lower_bound"] <= ds[sweep.experiment.main]).where(done, True).all())
    assert bool((ds["lower_bound"] > 0).where(done, True).all())


@pytest.mark.parametrize("name", ERRORS)
def test_minimax_is_at_or_below_alternating_projections_and_these_below_truncation(name, ran):
    found = curves(ran, name)
    svd, ap, minimax = (found.sel({"method": method}) for method in ("svd", "ap", "minimax"))
    seen = (svd > 1e-6).values  # below, all are rounding
    assert seen.sum() > 8
    assert bool((minimax <= 1.05 * ap).values[seen].all())
    assert bool((1.02 * ap <= svd).values[seen].all())
    large = svd.values[seen] / minimax.values[seen]
    assert np.median(large) > 1.8  # several times below, as a rule


def test_ranks_fall_with_the_tolerance_and_rise_with_n(ran):
    _, ds = ran("fig-000-5.1-small")
    for quantity in ("rank", "lower_bound"):
        assert bool((ds[quantity].diff("tolerance") <= 0).all())
    assert bool((ds["rank"].diff("n") >= 0).all())
    strict, loose = (ds["rank"].max("seed").isel(tolerance=i).squeeze() / ds["n"] for i in (0, -1))
    assert bool((strict > 0.95).all())  # all but n where the tolerance is small
    assert bool((loose < 0.25).all())


def test_minimax_meets_a_tolerance_at_a_lower_rank_than_truncation(ran):
    found = curves(ran, "fig-001-1-small")
    svd, minimax = (found.sel({"method": method}) for method in ("svd", "minimax"))
    seen = svd.notnull()
    assert int(seen.sum()) >= 4
    assert bool((minimax <= svd).where(seen, True).all())
    assert bool((minimax <= found["n"]).where(seen, True).all())
    assert float((minimax / svd).median()) < 0.5


def test_rank_by_truncation_is_in_proportion_to_n_where_that_by_minimax_hardly_grows(ran):
    """The Gaussian on the sphere at the tolerance 0.2, near the identity: where the two papers disagree."""
    ranks = curves(ran, "fig-001-1-small", function="gaussian", tolerance=0.2).squeeze().dropna("n")
    growth = np.log(ranks.isel(n=-1) / ranks.isel(n=0)) / np.log(float(ranks["n"][-1] / ranks["n"][0]))
    assert float(growth.sel({"method": "svd"})) > 0.85
    assert float(growth.sel({"method": "minimax"})) < 0.4


def test_effective_rank_follows_that_of_the_input_along_the_diagonal(ran):
    """m = √n: of the identity √n, of cosines of so many dimensions that of independent entries."""
    found = curves(ran, "fig-002-b-small")
    at = {n: found.sel(m=m, n=n).squeeze() for m, n in ((8, 64), (20, 400))}
    for n, values in at.items():
        assert 0.85 * n**0.5 < float(values.sel(function="identity")) < n**0.5
        assert float(values.sel(function="cos")) == pytest.approx((8 / (3 * np.pi)) ** 2 * n, rel=0.1)


def test_elementwise_functions_that_keep_rank_one_have_effective_rank_one(ran):
    found = curves(ran, "fig-002-b-small", m=1)
    kept = found.sel(function=["identity", "sign", "abs", "square", "cube"])
    np.testing.assert_allclose(kept.values, 1, rtol=1e-9)
    others = found.sel(function=["tanh", "relu", "cos", "sin", "step", "block_softmax"])
    assert bool((others > 1.2).all())
    assert bool((others < 6).all())  # whatever n is


def test_effective_rank_of_independent_entries_is_that_of_the_quarter_circle(ran):
    found = curves(ran, "fig-002-b-small", function="white_noise", m=[1, 10]).squeeze()
    found = found.sel(n=found["n"] >= 100)
    assert found["n"].size >= 2
    np.testing.assert_allclose(*xr.broadcast(found, (8 / (3 * np.pi)) ** 2 * found["n"]), rtol=0.03)


def test_singular_values_of_low_rank_functions_are_zero_and_those_of_noise_are_not(ran):
    _, ds = ran("fig-002-a-small")
    sigma = ds["sigma"].median("seed").squeeze()
    later = sigma.sel(k=sigma["k"] > 2)
    assert bool((later.sel(function=["identity", "sign", "abs", "square", "cube", "relu", "step"]) < ROUNDING).all())
    assert bool((later.sel(function="white_noise", n=200) > 0.05).all())


@pytest.mark.parametrize(("function", "least"), [("exponential", np.exp(-(2**0.5))), ("quartic_gaussian", np.exp(-4))])
def test_symmetric_kernels_in_high_dimension_have_the_errors_of_the_identity(function, least, ran):
    """Points are at distance √2, so F is c plus (1 − c) I: one rank is for the constant c = f(√2)."""
    found = curves(ran, "fig-001-3-small", function=function, sampling="ball-symmetric", m=1000, n=200)
    for r in (5, 14, 37):
        with threadpool_limits(1):
            identity = approximate(np.eye(200), r - 1, budget="quick").max_error
        assert float(found.sel({"r": r, "method": "minimax"})) == pytest.approx((1 - least) * identity, rel=0.1)


def test_error_is_flat_in_m_where_m_is_large_and_slowly_grows_with_n(ran):
    along_m = curves(ran, "fig-001-2-small", function="exponential", n=200, r=20)
    change = along_m.max("m") / along_m.min("m")
    assert bool((change.sel(sampling="ball-symmetric") < 1.15).all())
    assert bool((change.sel(sampling="ball-independent") < 3).all())
    along_n = curves(ran, "fig-001-4-small", function="exponential", m=1000, r=20, n=[50, 100, 200])
    assert bool((along_n.diff("n") > 0).all())
    assert bool((along_n.sel(n=200) / along_n.sel(n=50) < 4).all())  # less than in proportion


def test_fits_find_the_powers_of_the_papers(ran):
    def powers(name: str, start: str, where: str) -> list[float]:
        sweep, ds = ran(name)
        found = findings(ds, sweep.experiment)
        return [each.estimate for each in found if each.name.startswith(start) and where in each.where]

    along_r = powers("fig-001-3-small", "power of r in epsilon", "ball-symmetric, m = 1000, n = 200, method = minimax")
    np.testing.assert_allclose(along_r, [-0.5, -0.5], atol=0.08)
    noise = powers("fig-002-b-small", "power of n in effective_rank", "white_noise")
    np.testing.assert_allclose(noise, [1, 1], atol=0.05)
    kept = powers(
        "fig-002-b-small", "power of n in effective_rank", "function = square, sampling = gaussian-independent, m = 1"
    )
    assert min(map(abs, kept)) < 1e-9
    strict = powers("fig-000-5.1-small", "power of n in rank", "tolerance = 0.0001")
    np.testing.assert_allclose(strict, [1], atol=0.05)


def test_shipped_figure_runs_is_drawn_and_reported_from_the_command_line(workspace, epsweep):
    name = "fig-000-5.1-small"
    done = epsweep("run", name)
    assert done.returncode == 0, done.stderr
    store = f"results/{name}.zarr"
    assert "240 of 240 cells" in done.stdout
    for figure in ("rank-against-n", "rank-against-tolerance"):
        assert f"results/{name}.figures/{figure}.png" in done.stdout
    drawn = epsweep("plot", store, "--out", "again")
    assert drawn.returncode == 0, drawn.stderr
    names = ["rank-against-n.png", "rank-against-n.svg", "rank-against-tolerance.png", "rank-against-tolerance.svg"]
    assert sorted(path.name for path in (workspace / "again").iterdir()) == names
    for each in names:
        assert (workspace / "again" / each).read_bytes() == (workspace / f"results/{name}.figures" / each).read_bytes()
    reported = epsweep("report", store, "--out", "pages")
    assert reported.returncode == 0, reported.stderr
    page = (workspace / "pages" / f"{name}.html").read_text(encoding="utf-8")
    assert "<h2>Fits</h2>" in page
    assert "power of n in rank" in page


def main() -> None:
    """Compute all medians and write them."""
    import tempfile

    found = {}
    for name in SMALL:
        with tempfile.TemporaryDirectory() as folder:
            sweep = parse_sweep(smaller(shipped_sweeps()[name]))
            found[name] = medians(sweep, compute(sweep, Path(folder) / "s.zarr"))
    MEDIANS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
