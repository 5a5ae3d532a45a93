"""Generating functions: values against scalar formulas, distances of close points, and a user's own."""

import math
import sys
from itertools import permutations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import kstest

from pipeline.errors import InputError
from pipeline.formulas import multilinear_product, squared_distances
from pipeline.functions import BUILT_IN, get_function, label_of
from pipeline.matrix import function_matrix


def dot(x, y):
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def sector(point, pieces):
    """Part of a quadrant by the first two coordinates, or of a unit interval by the only one."""
    turn = point[0] % 1.0 if len(point) == 1 else math.atan2(point[1], point[0]) / (math.pi / 2) % 1.0
    return min(int(turn * pieces), pieces - 1)


def part(point, blocks):
    """Which of the equal parts of [0, 1] the first coordinate lies in, the nearest if in none."""
    return min(max(math.trunc(point[0] * blocks), 0), blocks - 1)


FORMULAS = {
    "exponential": lambda x, y: math.exp(-math.dist(x, y)),
    "quartic_gaussian": lambda x, y: math.exp(-(math.dist(x, y) ** 4)),
    "gaussian": lambda x, y: math.exp(-(math.dist(x, y) ** 2)),
    "cauchy": lambda x, y: 1 / (1 + math.dist(x, y) ** 2),
    "inner_product": dot,
    "polynomial": lambda x, y: (1 + dot(x, y)) ** 2,
    "polynomial(degree=5,offset=-0.5)": lambda x, y: (dot(x, y) - 0.5) ** 5,
    "exponential_polynomial": lambda x, y: math.exp(dot(x, y) ** 2),
    "exponential_polynomial(degree=3,offset=0.25)": lambda x, y: math.exp((0.25 + dot(x, y)) ** 3),
    "piecewise": lambda x, y: math.exp(-(1 + abs(sector(x, 2) - sector(y, 2))) * math.dist(x, y) ** 2),
    "piecewise(pieces=5)": lambda x, y: math.exp(-(1 + abs(sector(x, 5) - sector(y, 5))) * math.dist(x, y) ** 2),
    "minimum_graphon": lambda x, y: math.fsum(map(min, x, y)) / len(x),
    "block_graphon": lambda x, y: 0.8 if part(x, 3) == part(y, 3) else 0.2,
    "block_graphon(between=0,blocks=2)": lambda x, y: 0.8 if part(x, 2) == part(y, 2) else 0.0,
    "exponential(scale=0.5)": lambda x, y: math.exp(-math.dist(x, y) / 0.5),
    "quartic_gaussian(scale=2)": lambda x, y: math.exp(-((math.dist(x, y) / 2) ** 4)),
    "gaussian(scale=3)": lambda x, y: math.exp(-((math.dist(x, y) / 3) ** 2)),
    "cauchy(scale=0.1)": lambda x, y: 1 / (1 + (math.dist(x, y) / 0.1) ** 2),
    "identity": dot,
    "tanh": lambda x, y: math.tanh(dot(x, y)),
    "relu": lambda x, y: max(0.0, dot(x, y)),
    "sign": lambda x, y: math.copysign(1.0, dot(x, y)),
    "step": lambda x, y: float(dot(x, y) > 0),
    "abs": lambda x, y: abs(dot(x, y)),
    "square": lambda x, y: dot(x, y) ** 2,
    "cube": lambda x, y: dot(x, y) ** 3,
    "cos": lambda x, y: math.cos(dot(x, y)),
    "sin": lambda x, y: math.sin(dot(x, y)),
    "attention": lambda x, y: math.exp(
        math.fsum((math.sqrt(len(x)) * a) * (math.sqrt(len(x)) * b) for a, b in zip(x, y, strict=True))
        / math.sqrt(len(x))
    ),
    "sinh_product": lambda x, y, z: math.sinh(math.fsum(a * b * c for a, b, c in zip(x, y, z, strict=True))),
    "tensor_attention": lambda x, y, z: math.exp(
        len(x) ** 1.5 * math.fsum(a * b * c for a, b, c in zip(x, y, z, strict=True)) / math.sqrt(len(x))
    ),
}


def point_sets(name: str, m: int, size: float, seed: int = 0) -> list[np.ndarray]:
    """As many sets of different lengths as a function takes."""
    random = np.random.default_rng(seed)
    return [random.uniform(-size, size, (5 - k, m)) for k in range(get_function(name).order)]


def test_every_function_of_two_points_has_a_scalar_formula():
    assert set(BUILT_IN) - {"white_noise", "block_softmax"} <= set(FORMULAS)


@pytest.mark.parametrize("m", [1, 2, 16, 17, 100])
@pytest.mark.parametrize("name", FORMULAS)
def test_entries_equal_the_scalar_formula(name, m):
    points = point_sets(name, m, 0.7, seed=m)
    expected = np.empty([len(each) for each in points])
    for index in np.ndindex(expected.shape):
        expected[index] = FORMULAS[name](*(each[i].tolist() for each, i in zip(points, index, strict=True)))
    np.testing.assert_allclose(get_function(name)(*points), expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", [name for name, function in BUILT_IN.items() if function.symmetric])
def test_built_in_functions_called_symmetric_are(name):
    points = point_sets(name, 20, 1.0)
    values = BUILT_IN[name](*points)
    for order in permutations(range(values.ndim)):
        np.testing.assert_allclose(BUILT_IN[name](*(points[k] for k in order)), values.transpose(order), rtol=1e-11)


@pytest.mark.parametrize("name", BUILT_IN)
def test_points_are_not_changed_by_evaluation(name):
    points = point_sets(name, 20, 1.0)
    before = [each.copy() for each in points]
    BUILT_IN[name](*points)
    assert all(np.array_equal(*pair) for pair in zip(points, before, strict=True))


@pytest.mark.parametrize("m", [1, 3, 40])
@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_multilinear_product_is_the_sum_over_products_of_coordinates(order, m):
    random = np.random.default_rng([order, m])
    points = [random.standard_normal((k + 2, m)) for k in range(order)]
    letters = "ijkln"[:order]
    expected = np.einsum(",".join(f"{letter}a" for letter in letters) + "->" + letters, *points)
    np.testing.assert_allclose(multilinear_product(*points), expected, rtol=1e-11, atol=1e-11)


def test_white_noise_entries_are_independent_and_standard_normal():
    random = np.random.default_rng(3)
    x, y = random.standard_normal((500, 4)), random.standard_normal((500, 4))
    values = BUILT_IN["white_noise"](x, y)
    assert kstest(values.ravel(), "norm").pvalue > 0.01
    for shifted in (values[1:, :] * values[:-1, :], values[:, 1:] * values[:, :-1], values * values.T):
        assert abs(shifted.mean()) < 4 / math.sqrt(shifted.size)
    largest = np.linalg.svd(values, compute_uv=False)[0]
    assert largest == pytest.approx(2 * math.sqrt(500), rel=0.03)  # the edge of the quarter circle law


def test_white_noise_is_a_function_of_its_points():
    random = np.random.default_rng(4)
    x, y = random.standard_normal((30, 3)), random.standard_normal((20, 3))
    values, some = BUILT_IN["white_noise"](x, y), random.permutation(30)
    assert np.array_equal(BUILT_IN["white_noise"](x[some], y), values[some])
    nudged = x.copy()
    nudged[0, 2] = np.nextafter(nudged[0, 2], 9.0)
    assert (BUILT_IN["white_noise"](nudged, y)[0] != values[0]).all()


@pytest.mark.parametrize("side", [2, 4, 16])
def test_block_softmax_is_that_of_each_block(side):
    random = np.random.default_rng(5)
    x, y = random.standard_normal((37, 3)), random.standard_normal((22, 3))
    found = get_function(label_of("block_softmax", {"side": side}))(x, y)
    for rows in range(0, 37, side):
        for cols in range(0, 22, side):
            block = slice(rows, rows + side), slice(cols, cols + side)
            np.testing.assert_allclose(found[block], softmax((x @ y.T)[block]), rtol=1e-12)


# --- parameters


def test_parameters_that_are_the_default_have_the_plain_label():
    assert label_of("gaussian", {"scale": 1}) == "gaussian"
    assert label_of("polynomial", {"degree": 3, "offset": 1.0}) == "polynomial(degree=3)"
    assert label_of("gaussian", {"scale": 2.0}) == "gaussian(scale=2)"
    assert label_of("gaussian", {"scale": 0.1}) == "gaussian(scale=0.1)"


@pytest.mark.parametrize("name", [name for name, function in BUILT_IN.items() if function.parameters])
def test_every_parameter_changes_the_values_and_is_part_of_the_label(name):
    random = np.random.default_rng(6)
    x, y = random.uniform(-1, 1, (40, 2)), random.uniform(-1, 1, (40, 2))
    for key, parameter in BUILT_IN[name].parameters.items():
        other = 8 if key == "side" else 0.5 if isinstance(parameter.default, float) else parameter.default + 1
        label = label_of(name, {key: other})
        assert get_function(label).name == label == f"{name}({key}={other})"
        assert not np.array_equal(get_function(label)(x, y), BUILT_IN[name](x, y))


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [
        ("gaussian", {"scale": 0}, "between"),
        ("gaussian", {"scale": "2"}, "finite number"),
        ("gaussian", {"scale": math.inf}, "finite number"),
        ("gaussian", {"scale": True}, "finite number"),
        ("gaussian", {"length": 2}, "use scale"),
        ("inner_product", {"scale": 2}, "it has none"),
        ("polynomial", {"degree": 2.5}, "integer"),
        ("polynomial", {"degree": 21}, "between 1 and 20"),
        ("block_softmax", {"side": 3}, "use one of 2, 4"),
        ("gaussiann", {"scale": 2}, "not known"),
    ],
)
def test_bad_parameters_are_refused_by_name(name, parameters, told):
    with pytest.raises(InputError, match=told) as caught:
        label_of(name, parameters)
    assert next(iter(parameters)) in str(caught.value) or name in str(caught.value)


@pytest.mark.parametrize(
    "label",
    ["gaussian(scale=1)", "gaussian(scale=2.0)", "gaussian( scale=2)", "polynomial(offset=2,degree=3)"],
)
def test_labels_that_say_the_same_in_another_way_are_refused_with_the_one_to_write(label):
    with pytest.raises(InputError, match=r"is written|cannot be read"):
        get_function(label)


@pytest.mark.parametrize("label", ["gaussian()", "gaussian(2)", "gaussian(scale=)", "gaussian(scale=2,scale=3)"])
def test_labels_that_cannot_be_read_are_refused(label):
    with pytest.raises(InputError, match="cannot be read"):
        get_function(label)


# --- distances


def exact_squares(x, y):
    """Squared distances in extended precision."""
    difference = x.astype(np.longdouble)[:, None, :] - y.astype(np.longdouble)[None, :, :]
    return np.sum(difference * difference, axis=2)


@pytest.mark.parametrize("separation", [1e-12, 1e-9, 1e-6, 1e-3, 0.05, 0.1, 0.2, 1.0])
@pytest.mark.parametrize("m", [3, 16, 17, 64, 1000])
def test_squared_distances_are_accurate_at_every_separation(m, separation):
    random = np.random.default_rng(7)
    x = random.standard_normal((30, m))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    direction = random.standard_normal((30, m))
    y = x + separation * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    exact = exact_squares(x, y)
    error = np.abs(squared_distances(x, y) - exact) / exact
    assert error.max() < 1e-11


@pytest.mark.parametrize("m", [17, 1000])
def test_clusters_of_close_points_are_accurate_in_every_pair(m):
    """All 60 × 70 pairs are close, more than are recomputed at a time."""
    random = np.random.default_rng(8)
    centre = random.standard_normal(m)
    x, y = (centre + 1e-7 * random.standard_normal((size, m)) for size in (60, 70))
    exact = exact_squares(x, y)
    assert (np.abs(squared_distances(x, y) - exact) / exact).max() < 1e-11


@pytest.mark.parametrize("m", [1, 2, 16, 17, 100, 1000])
def test_equal_points_are_at_distance_exactly_zero(m):
    random = np.random.default_rng(9)
    x = random.standard_normal((40, m))
    y = np.concatenate([random.standard_normal((10, m)), x[::-1]])
    squares = squared_distances(x, y)
    assert np.all(np.diagonal(np.fliplr(squares[:, 10:])) == 0)
    assert squares.min() == 0
    assert np.all(squares[:, :10] > 0)


def test_origin_is_at_distance_zero_from_itself():
    assert np.all(squared_distances(np.zeros((2, 40)), np.zeros((3, 40))) == 0)


@pytest.mark.parametrize("m", [2, 16, 17, 100, 1000])
@pytest.mark.parametrize("name", ["exponential", "quartic_gaussian", "gaussian", "cauchy"])
def test_diagonal_of_a_symmetric_draw_is_exactly_one(name, m):
    for sampling in ("ball-symmetric", "sphere-symmetric"):
        matrix = function_matrix(name, sampling, m, 300, seed=1).to_numpy()
        assert np.all(np.diagonal(matrix) == 1)
        assert matrix.max() == 1
        assert np.median(matrix) < 1


# --- a user's own function


def test_user_function_gives_its_entries(user_module):
    name = user_module("def ramp(X, Y):\n    return X[:, :1] + 10 * Y[:, 0]\n")
    function = get_function(f"{name}:ramp")
    assert function.name == f"{name}:ramp"
    x, y = np.array([[1.0, 5.0], [2.0, 5.0]]), np.array([[3.0, 0.0], [4.0, 0.0], [5.0, 0.0]])
    assert np.array_equal(function(x, y), [[31, 41, 51], [32, 42, 52]])


@pytest.mark.parametrize(
    ("source", "order", "arguments"),
    [
        ("def f(X, Y): ...", 2, "X, Y"),
        ("def f(X, Y, Z): ...", 3, "X, Y, Z"),
        ("def f(A, B, C, D): ...", 4, "X1, X2, X3, X4"),
        ("def f(A, B, C, D, E, /): ...", 5, "X1, X2, X3, X4, X5"),
        ("def f(X, Y, Z=None): ...", 2, "X, Y"),
        ("def f(X, Y, Z, power=2): ...", 3, "X, Y, Z"),
        ("def f(X, Y, Z, *, power=2, **more): ...", 3, "X, Y, Z"),
        ("def f(*points): ...", 2, "X, Y"),
        ("def f(X, Y, Z, *more): ...", 3, "X, Y, Z"),
        ("def f(points): ...", 2, "X, Y"),
        ("f = lambda X, Y, Z: X", 3, "X, Y, Z"),
        ("class F:\n    def __call__(self, X, Y, Z): ...\nf = F()", 3, "X, Y, Z"),
        ("class F:\n    def g(self, X, Y, Z): ...\nf = F().g", 3, "X, Y, Z"),
        ("from functools import partial\ndef g(a, X, Y, Z): ...\nf = partial(g, 1)", 3, "X, Y, Z"),
        ("f = max", 2, "X, Y"),
        ("class F:\n    __signature__ = 5\n    def __call__(self, X, Y, Z): ...\nf = F()", 2, "X, Y"),
    ],
)
def test_order_of_a_user_function_is_the_number_of_points_it_must_be_given(user_module, source, order, arguments):
    name = user_module(source)
    function = get_function(f"{name}:f")
    assert function.order == order
    assert function.formula == f"f({arguments})"
    assert not function.symmetric


def test_user_function_of_three_points_gives_its_entries(user_module):
    name = user_module("def ramp(X, Y, Z):\n    return X[:, :1, None] + 10 * Y[:, :1] + 100 * Z[:, 0]\n")
    x, y, z = (np.arange(1.0, n)[:, None] for n in (3, 4, 2))
    assert np.array_equal(get_function(f"{name}:ramp")(x, y, z), [[[111], [121], [131]], [[112], [122], [132]]])


@pytest.mark.parametrize(
    "returned", ["(X @ Y.T > 0)", "(X @ Y.T).astype('float32')", "(X @ Y.T).round().astype(int)", "(X @ Y.T).tolist()"]
)
def test_real_results_of_any_kind_become_float64(user_module, returned):
    name = user_module(f"import numpy as np\ndef f(X, Y):\n    return {returned}\n")
    random = np.random.default_rng(0)
    x, y = random.standard_normal((3, 2)), random.standard_normal((4, 2))
    values = get_function(f"{name}:f")(x, y)
    assert values.dtype == np.float64
    assert np.array_equal(values, np.asarray(eval(returned, {"X": x, "Y": y})))


@pytest.mark.parametrize("name", ["gausian", "", "Gaussian", "exp(-x)"])
def test_unknown_function_names_the_known_ones(name):
    with pytest.raises(InputError, match=r"^function: ") as caught:
        get_function(name)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in BUILT_IN)


@pytest.mark.parametrize(
    ("source", "attribute", "told"),
    [
        ("def f(X, Y): return X @ Y.T", "g", "has no attribute 'g'"),
        ("def f(X, Y: return", "f", "SyntaxError"),
        ("import no_such_module_at_all", "f", "no_such_module_at_all"),
        ("raise RuntimeError('first line\\nsecond line')", "f", "RuntimeError"),
        ("raise SystemExit(3)", "f", "SystemExit"),
        ("f = 5", "f", "is a int"),
        ("f = None", "f", "NoneType"),
    ],
    ids=["no such name", "syntax error", "failing import", "two-line error", "exits", "a number", "nothing"],
)
def test_user_function_that_cannot_be_had_is_refused_in_one_line(user_module, source, attribute, told):
    name = user_module(source)
    with pytest.raises(InputError, match=f"^function: '{name}:{attribute}'") as caught:
        get_function(f"{name}:{attribute}")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no_such_module_at_all:f", ":f", "..relative:f", "pathlib:", "math:nope", "a\nb:f"])
def test_module_that_cannot_be_imported_is_refused_in_one_line(name):
    with pytest.raises(InputError, match=r"^function: .*cannot be imported") as caught:
        get_function(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("(X @ Y.T)[:-1]", "(2, 4)"),
        ("X @ Y.T @ np.ones(4)", "(3,)"),
        ("(X @ Y.T).T", "(4, 3)"),
        ("1.0", "()"),
        ("None", "object"),
        ("(X @ Y.T).astype(complex)", "complex128"),
        ("(X @ Y.T).astype(str)", "<U"),
        ("(X @ Y.T).astype(object)", "object"),
    ],
)
def test_result_of_wrong_shape_or_type_is_refused(user_module, returned, told):
    name = user_module(f"import numpy as np\ndef f(X, Y):\n    return {returned}\n")
    with pytest.raises(InputError, match=f"^function: {name}:f returned .*return real numbers of shape") as caught:
        get_function(f"{name}:f")(np.ones((3, 2)), np.ones((4, 2)))
    assert told in str(caught.value)
    assert "(3, 4)" in str(caught.value)


def test_a_users_parameters_without_default_are_no_point_sets(tmp_path, monkeypatch):
    (tmp_path / "with_rate.py").write_text("import numpy as np\ndef f(X, Y, rate): return np.exp(rate * X @ Y.T)\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = get_function("with_rate:f(rate=0.25)")
    x, y = np.arange(6.0).reshape(3, 2), np.arange(4.0).reshape(2, 2)
    assert function.order == 2
    np.testing.assert_allclose(function(x, y), np.exp(0.25 * x @ y.T), rtol=1e-15)


@pytest.mark.parametrize(
    ("parameters", "label", "given"),
    [
        ({"flag": False}, "f(flag=false)", {"flag": False}),
        ({"flag": True}, "f(flag=true)", {"flag": True}),
        ({"flag": 0}, "f(flag=0)", {"flag": 0}),
        (
            {"scale": 2, "flag": False, "rate": -0.5},
            "f(flag=false,rate=-0.5,scale=2)",
            {"scale": 2, "rate": -0.5, "flag": False},
        ),
        ({"scale": 2.0}, "f(scale=2)", {"scale": 2}),
        ({"scale": 1e-300}, "f(scale=1e-300)", {"scale": 1e-300}),
        ({}, "f", {}),
    ],
)
def test_a_users_parameters_are_numbers_and_truth_values_of_their_own_type(user_module, parameters, label, given):
    """A boolean stays one, whatever the default of the function is."""
    name = user_module(
        "told = []\ndef f(X, Y, scale=1, flag=True, **more):\n"
        "    told.append((scale, flag, more))\n    return X @ Y.T\n"
    )
    assert label_of(f"{name}:f", parameters) == f"{name}:{label}"
    get_function(f"{name}:{label}")(np.ones((2, 1)), np.ones((2, 1)))
    scale, flag, more = sys.modules[name].told[-1]
    expected = {"scale": 1, "flag": True} | given
    assert {"scale": scale, "flag": flag} | more == expected
    assert type(flag) is type(expected["flag"])


def test_a_users_function_that_has_no_such_parameter_is_refused(user_module):
    name = user_module("def f(X, Y, *, flag=True): ...\n")
    with pytest.raises(InputError, match=r"cannot be called with these parameters \(got an unexpected keyword"):
        get_function(f"{name}:f(flg=false)")


@pytest.mark.parametrize("value", ["nan", "1e999", "9" * 5000])
def test_parameters_in_labels_that_are_no_numbers_are_refused(value):
    with pytest.raises(InputError, match=r"function: |scale: "):
        get_function(f"gaussian(scale={value})")
