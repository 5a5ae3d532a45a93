"""Fits along one axis: exact laws, the literature's formulas, other libraries, coverage by simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from pipeline.errors import InputError
from pipeline.fits import compare_growth, flatness, local_slopes, log_growth, power_law
from pipeline.theory import embedding_rank, spectral_norm_rank

SIZES = np.array([100, 200, 400, 800, 1600, 3000])
LOGS = np.log(SIZES)
FITS = {"power_law": (power_law, LOGS), "log_growth": (log_growth, np.log(LOGS))}
NOISE = {
    "independent": lambda random, shape: random.standard_normal(shape),
    "growing dataset": lambda random, shape: np.cumsum(random.standard_normal(shape), axis=1) / 2,
    "skew": lambda random, shape: random.exponential(size=shape),
    "uneven": lambda random, shape: random.standard_normal(shape) * np.linspace(0.2, 2, shape[1]),
}


def noisy(curve, trials, sigma=0.05, kind="independent", seed=0, spread=1.0):
    """Trials about a curve, each with a factor of its own, which no slope of a trial should see."""
    random = np.random.default_rng(seed)
    offsets = spread * random.standard_normal((trials, 1))
    return curve * np.exp(offsets + sigma * NOISE[kind](random, (trials, len(curve))))


# --- exact laws


@pytest.mark.parametrize("power", [-1.7, -0.5, 0.0, 0.25, 1.0, 3.0])
@pytest.mark.parametrize("name", FITS)
def test_exact_laws_are_recovered_with_their_factor(name, power):
    fit, base = FITS[name]
    found = fit(SIZES, np.array([[1.0], [3.0], [2.0]]) * np.exp(power * base))
    for value in (found.estimate, found.mean, found.low, found.high):
        assert value == pytest.approx(power, abs=1e-12)
    assert found.factor == pytest.approx(2)
    assert found.misfit < 1e-12
    assert (found.points, found.trials, found.level) == (6, 3, 0.95)


def test_welch_bound_of_the_identity_falls_as_the_root_of_the_rank():
    """The bound w = √((n − r)/(r (n − 1))), attained by equiangular tight frames, far from r = n."""
    r = np.array([5, 10, 20, 40, 80])
    assert power_law(r, np.sqrt((1e9 - r) / (r * (1e9 - 1)))[None]).estimate == pytest.approx(-0.5, abs=1e-7)


def test_rank_bounds_grow_with_the_logarithm():
    """9 log(3 n²)/ε² and 72 log(2n + 1)/ε² (Budzinskiy, Theorem 1.3; Udell and Townsend, Theorem 1.0)."""
    n = np.geomspace(1e20, 1e200, 7)
    for ranks in (embedding_rank(n, n, 1e-3), spectral_norm_rank(n, 1e-3)):
        found = compare_growth(n, ranks * np.array([[1.0], [1.01], [0.98]]))
        assert found.best == "logarithmic"
        assert found.logarithmic.estimate == pytest.approx(1, abs=0.01)


# --- other libraries


@pytest.mark.parametrize("name", FITS)
def test_fits_are_those_of_other_libraries(name):
    fit, base = FITS[name]
    values = noisy(np.exp(-0.5 * base), 7, sigma=0.3)
    found = fit(SIZES, values, level=0.9)
    medians = np.log(np.median(values, axis=0))
    line = scipy.stats.linregress(base, medians)
    assert found.estimate == pytest.approx(line.slope)
    assert found.factor == pytest.approx(math.exp(line.intercept))
    residuals = medians - line.intercept - line.slope * base
    assert found.misfit == pytest.approx(math.sqrt(np.mean(residuals**2)))
    slopes = [np.polyfit(base, np.log(trial), 1)[0] for trial in values]
    interval = scipy.stats.ttest_1samp(slopes, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx(tuple(interval))
    assert found.mean == pytest.approx(np.mean(slopes))


# --- coverage


@pytest.mark.parametrize("trials", [2, 3, 5, 10])
@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("name", FITS)
def test_intervals_cover_the_truth_as_often_as_they_say(name, kind, trials):
    fit, base = FITS[name]
    values = noisy(np.exp(-0.5 * base), 2000 * trials, kind=kind, seed=trials).reshape(2000, trials, -1)
    fits = [fit(SIZES, sample) for sample in values]
    assert 0.92 <= np.mean([found.low <= -0.5 <= found.high for found in fits]) <= 0.98


def test_intervals_of_another_level_cover_accordingly():
    values = noisy(SIZES**-0.5, 10000).reshape(2000, 5, -1)
    fits = [power_law(SIZES, sample, level=0.5) for sample in values]
    assert 0.46 <= np.mean([found.low <= -0.5 <= found.high for found in fits]) <= 0.54


@pytest.mark.parametrize(("spread", "most"), [(0.0, 0.02), (0.05, 0.03), (0.15, 0.1)])
def test_estimates_are_centred_at_the_truth_and_seldom_leave_the_interval(spread, most):
    values = noisy(SIZES**-0.5, 10000, spread=spread).reshape(2000, 5, -1)
    fits = [power_law(SIZES, sample) for sample in values]
    estimates, means = np.array([found.estimate for found in fits]), np.array([found.mean for found in fits])
    for found in (estimates, means):
        assert abs(found.mean() + 0.5) < 4 * found.std() / math.sqrt(2000)
    assert 1.1 < estimates.std() / means.std() < math.sqrt(5)
    assert np.mean([not found.low <= found.estimate <= found.high for found in fits]) <= most


# --- trials are paired


def test_what_is_common_to_a_trial_widens_no_interval():
    """The same curve times factors from 0.001 to 1000: unpaired, it would look like noise."""
    curve = 7 * SIZES**-0.4 * np.array([1, 1.1, 0.9, 1.05, 1, 0.97])
    found = power_law(SIZES, np.geomspace(1e-3, 1e3, 9)[:, None] * curve)
    assert found.high - found.low < 1e-12
    assert found.misfit > 0.01


def test_one_trial_has_an_estimate_and_no_interval():
    found = power_law(SIZES, noisy(SIZES**-0.5, 1))
    assert found.estimate == pytest.approx(found.mean)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_units_change_the_factor_alone():
    values = noisy(SIZES**-0.5, 5)
    found, scaled = power_law(SIZES, values), power_law(SIZES * 7.0, values * 3.0)
    for name in ("estimate", "low", "high", "mean", "misfit"):
        assert getattr(scaled, name) == pytest.approx(getattr(found, name))
    assert scaled.factor == pytest.approx(found.factor * 3 * 7**-found.estimate)


def test_order_of_the_trials_is_nothing():
    values = noisy(SIZES**-0.5, 5)
    assert power_law(SIZES, values[::-1]).low == pytest.approx(power_law(SIZES, values).low)


def test_points_far_from_one_overflow_quietly():
    assert power_law([1e300, 2e300], [[1.0, 1e-300]]).factor == math.inf


# --- flatness


def test_flatness_counts_decades():
    """A tenfold fall over three decades."""
    m = np.array([1, 10, 100, 1000])
    found = flatness(m, np.array([[1.0], [2.0], [3.0]]) * 10 ** np.array([-1, -4 / 3, -5 / 3, -2]))
    assert found.change.estimate == pytest.approx(-1 / 3)
    assert found.ratio == pytest.approx(10)


def test_flatness_of_a_wave_is_seen_in_the_ratio():
    found = flatness([1, 10, 100], [[1.0, 2.0, 1.0]])
    assert found.change.estimate == pytest.approx(0, abs=1e-15)
    assert found.ratio == 2


def test_constants_are_flat_to_the_last_bit():
    found = flatness(SIZES, np.full((5, 6), 0.1))
    assert (found.change.low, found.change.estimate, found.change.high, found.ratio) == (0, 0, 0, 1)


# --- local slopes


def test_local_slopes_of_a_rank_that_grows_linearly_and_then_slowly():
    """As in Udell and Townsend, Figure 5.1."""
    rank = np.minimum(0.9 * SIZES, 360 * (SIZES / 400) ** 0.2)
    slopes = local_slopes(SIZES, noisy(rank, 5, sigma=0.001))
    assert [round(fit.estimate, 1) for fit in slopes] == [1, 1, 0.2, 0.2, 0.2]
    assert all(fit.high - fit.low < 0.02 for fit in slopes)
    assert all((fit.points, fit.trials) == (2, 5) for fit in slopes)


def test_local_slopes_are_fits_of_two_points():
    values = noisy(SIZES**0.5, 4)
    assert local_slopes(SIZES, values)[2] == power_law(SIZES[2:4], values[:, 2:4])


# --- models of growth

CURVES = {
    "constant": [np.ones(6)],
    "logarithmic": [LOGS, LOGS**3, LOGS**0.5],
    "power": [SIZES**0.1, SIZES**0.5, SIZES**1.0],
}


@pytest.mark.parametrize("trials", [2, 3, 5])
@pytest.mark.parametrize("model", CURVES)
def test_models_are_told_apart_where_the_noise_is_small(model, trials):
    for curve in CURVES[model]:
        found = compare_growth(SIZES, noisy(curve, trials, sigma=1e-4))
        assert found.best == model
        if model != "constant":
            assert found.residuals[model] == min(found.residuals.values())
        assert found.power == power_law(SIZES, noisy(curve, trials, sigma=1e-4))


@pytest.mark.parametrize("sigma", [0.003, 0.02, 0.2])
@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("model", CURVES)
def test_models_are_seldom_mistaken_whatever_the_noise(model, kind, sigma):
    """Where the trials cannot tell, none is named."""
    values = noisy(CURVES[model][0], 1000, sigma, kind).reshape(200, 5, -1)
    found = [compare_growth(SIZES, sample).best for sample in values]
    assert sum(best not in (model, None) for best in found) <= 0.04 * len(found)


def test_residuals_are_those_of_the_medians():
    values = noisy(LOGS, 5)
    found = compare_growth(SIZES, values)
    assert found.residuals["power"] == pytest.approx(6 * found.power.misfit**2)
    assert found.residuals["logarithmic"] == pytest.approx(6 * found.logarithmic.misfit**2)
    assert found.residuals["constant"] == pytest.approx(6 * np.var(np.log(np.median(values, axis=0))))


def test_few_trials_points_or_digits_cannot_tell():
    assert compare_growth(SIZES, noisy(SIZES**1.0, 1, sigma=0)).best is None
    assert compare_growth(SIZES[:2], noisy(SIZES[:2] ** 1.0, 5, sigma=0)).best is None
    assert compare_growth(SIZES, noisy(np.ones(6), 2, sigma=1)).best is None


def test_what_passes_for_a_constant_can_be_set():
    values = noisy(np.ones(6), 5, sigma=0.02)
    assert compare_growth(SIZES, values).best == "constant"
    assert compare_growth(SIZES, values, flat_factor=1.001).best is None


# --- bad input

GOOD = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power_law([1, 2, 3], [[1, 0, 1]]), "values: entry [0, 1] is 0.0; give positive finite numbers"),
        (lambda: power_law([1, 2, 3], [[1, 2, 3], [1, 2, math.nan]]), "values: entry [1, 2] is nan; give positive"),
        (lambda: power_law([1, 2, math.inf], GOOD), "x: entry [2] is inf; give positive finite numbers"),
        (lambda: power_law([-1, 2, 3], GOOD), "x: entry [0] is -1.0; give positive finite numbers"),
        (lambda: power_law([1, 2, "three"], GOOD), "x: [1, 2, 'three'] is not an array of numbers; give positive"),
        (lambda: power_law([1, 2, 3], [[1, 2], [1]]), "values: its rows differ in length"),
        (lambda: power_law([1, 2], GOOD), "values: shape (2, 3) is not (trials, 2); give a row for each trial"),
        (lambda: power_law([1, 2, 3], [1, 2, 3]), "values: shape (3,) is not (trials, 3); give a row for each trial"),
        (lambda: power_law([1, 2, 3], np.ones((0, 3))), "values: shape (0, 3) is not (trials, 3); give a row"),
        (lambda: power_law([1], [[1]]), "x: shape (1,) is not that of an axis; give at least two points in a row"),
        (lambda: power_law(5, [[1]]), "x: shape () is not that of an axis; give at least two points in a row"),
        (lambda: power_law([1, 3, 2], GOOD), "x: its points do not increase; give distinct ones in increasing order"),
        (lambda: power_law([1, 2, 2], GOOD), "x: its points do not increase; give distinct ones in increasing order"),
        (lambda: power_law([1, 2, 3], GOOD, level=95), "level: 95 is out of range; give a number strictly between"),
        (lambda: flatness([1, 2, 2], GOOD), "x: its points do not increase"),
        (lambda: log_growth([1, 2, 3], GOOD), "n: 1.0 has no positive logarithm; give sizes above 1"),
        (lambda: local_slopes([3, 2, 1], GOOD), "n: its points do not increase; give distinct ones in increasing"),
        (lambda: compare_growth([2, 3, 4], GOOD, flat_factor=1), "flat_factor: 1 is out of range; give a finite"),
        (lambda: compare_growth([2, 3, 4], -GOOD), "values: entry [0, 0] is -1.0; give positive finite numbers"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(InputError) as refusal:
        call()
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
