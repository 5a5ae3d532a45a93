"""Bad specifications: each is refused in one short line that names the place and what stands there."""

import math

import pytest

from pipeline.errors import InputError
from pipeline.experiments import get_experiment
from pipeline.grid import declared_figures, parse_sweep
from pipeline.spec_text import parse_yaml
from tests.support import BLOCK


def spec(head: str = "name: t\n", **changes: str | None) -> str:
    """YAML text of one block; None leaves a key out."""
    entries = {**BLOCK, **changes}
    return (
        f"{head}grid:\n  - {{{', '.join(f'{key}: {entry}' for key, entry in entries.items() if entry is not None)}}}\n"
    )


def ranged(**parts: object) -> str:
    return "{" + ", ".join(f"{key.strip('_')}: {part}" for key, part in parts.items()) + "}"


def ranks(head: str = "", **changes: str | None) -> str:
    """YAML text of one block of ε-ranks."""
    return spec(f"name: t\nexperiment: epsilon_rank\n{head}", **{"r": None, "tolerance": "[0.1]"} | changes)


def spectra(head: str = "", **changes: str | None) -> str:
    """YAML text of one block of spectra."""
    return spec(f"name: t\nexperiment: spectrum\n{head}", **{"r": None, "method": None, "k": "[1]"} | changes)


LONG = "x" * 900
MILLION = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in ("ab", "bc", "cd", "de", "ef")
)

# text, start of the message, what it must name
BAD = [
    # the document
    ("", "the spec is empty", "name, experiment and grid"),
    ("# only a comment\n", "the spec is empty", "name, experiment and grid"),
    ("just words", "the spec is a str", "name, experiment and grid"),
    ("[1, 2]", "the spec is a list", "name, experiment and grid"),
    ("name: t\ngrid: [", "line 2, column 8", "YAML"),
    ("\tname: t", "line 1, column 1", "YAML"),
    ("name: a\nname: b", "line 2, column 1", "'name'"),
    (spec().replace("m: [2]", "m: [2], m: [3]"), "line 3", "'m'"),
    ("name: *unknown", "line 1, column 7", "unknown"),
    ("name: a\n---\nname: b", "line 2, column 1", "document"),
    ("name: !!python/object:os.system x", "line 1, column 7", "os.system"),
    ("name: \0", "not valid YAML", "#x0000"),
    ("name: 2024-13-45", "name: 2024-13-45 means one thing in YAML 1.1", "quote it"),
    ("{[1]: 2}", "line 1", "YAML"),
    ("name: {{ name }}", "line 1", "YAML"),
    ("name: !!bool maybe", "", "YAML"),
    ("name: !!timestamp soon", "", "YAML"),
    ("name: !!int ''", "", "YAML"),
    ("grid: &a [*a]", "line 1", "recursive"),
    # the top
    (spec(head=""), "name: is missing", "add it"),
    ("name: t", "grid: is missing", "add it"),
    (spec(head="name: 5\n"), "name: ", "5"),
    (spec(head="name:\n"), "name: ", "None"),
    (spec(head="name: 'two words'\n"), "name: ", "'two words'"),
    (spec(head="name: ../up\n"), "name: ", "'../up'"),
    (spec(head=f"name: {LONG}\n"), "name: ", "100"),
    (spec(head="name: t\nexperiment: speed\n"), "experiment: 'speed' is not known", "approximation"),
    (
        spec(head="name: t\nexperiment: [approximation]\n"),
        "experiment: ['approximation'] is not known",
        "approximation",
    ),
    (spec(head="name: t\ngird: 2\n"), "gird: is not a known key", "did you mean grid?"),
    (spec(head="name: t\ncolour: red\n"), "colour: is not a known key", "settings"),
    (spec(head=f"name: t\n{LONG[:300]}{LONG[:300]}: 2\n"), "xxx", "is not a known key"),
    (spec(head='name: t\n"two\\nlines": 2\n'), "", "is not a known key"),
    (spec(head="name: t\n1: 2\n"), "", "1"),
    # the grid
    ("name: t\ngrid: []", "grid: []", "at least 1"),
    ("name: t\ngrid: {m: [2]}", "grid: {'m': [2]}", "list"),
    ("name: t\ngrid:\n", "grid: None", "list"),
    ("name: t\ngrid: [5]", "grid[0]: 5", "will not do"),
    (spec() + "  - words\n", "grid[1]: 'words'", "will not do"),
    (spec(m=None), "grid[0].m: is missing", "add it"),
    (spec(seeds=None), "grid[0].seeds: is missing", "add it"),
    (spec(seed="[1]"), "grid[0].seed: is not a known key", "did you mean seeds?"),
    (spec(M="[2]"), "grid[0].M: is not a known key", "m, n, r"),
    (spec() + spec(m="[0]").splitlines()[2] + "\n", "grid[1].m: item 0: 0", "between 1 and"),
    # lists
    (spec(m="5"), "grid[0].m: 5 is not a list", "write [5]"),
    (spec(function="gaussian"), "grid[0].function: 'gaussian' is not a list", "write [gaussian]"),
    (spec(m="[]"), "grid[0].m: the list is empty", "at least one label"),
    (spec(m="null"), "grid[0].m: ", "is not a list"),
    (spec(m="[2, 3, 2]"), "grid[0].m: 2 is listed twice", "once"),
    (spec(method="[svd, ap, svd]"), "grid[0].method: 'svd' is listed twice", "once"),
    (spec(m="[2, 0]"), "grid[0].m: item 1: 0", "between 1 and"),
    (spec(n="[-40]"), "grid[0].n: item 0: -40", "between 1 and"),
    (spec(m="[99999999999]"), "grid[0].m: item 0: 99999999999", "2147483647"),
    (spec(m=f"[{'9' * 4000}]"), "grid[0].m: item 0: 999", "2147483647"),
    (spec(m=f"[0x{'f' * 4000}]"), "grid[0].m: ", "2147483647"),
    (spec(r="[2.5]"), "grid[0].r: item 0: 2.5", "integer"),
    (spec(r="[4.0]"), "grid[0].r: item 0: 4.0", "integer"),
    (spec(m="[1e3]"), "grid[0].m: item 0: 1000.0", "1000"),
    (spec(m="['2']"), "grid[0].m: item 0: '2'", "integer"),
    (spec(m="[true]"), "grid[0].m: item 0: True", "integer"),
    (spec(m="[[2]]"), "grid[0].m: item 0: [2]", "integer"),
    (spec(m="[{a: 1}]"), "grid[0].m: item 0: {'a': 1}", "integer"),
    (spec(function="[5]"), "grid[0].function: item 0: 5", "text"),
    (spec(method="[no]"), "grid[0].method[0]: no means one thing in YAML 1.1", "quote it"),
    (spec(method="[true]"), "grid[0].method: item 0: True is not a text", "quote it"),
    (spec(function="[1e3]"), "grid[0].function: item 0: 1000.0 is not a text", "quote it"),
    (spec(function="[~]"), "grid[0].function: item 0: None is not a text", "quote it"),
    # scalars that YAML 1.1 and 1.2 read differently: octal, to the base 60 and 2, underscores, truth values, dates
    *(
        (spec(n=f"[{written}]"), f"grid[0].n[0]: {written} means one thing in YAML 1.1", "plain digits")
        for written in ("0100", "0899", "-012", "1:40", "1:40:00", "1:40.5", "1_000", "0b11", "0x1_F", "1_0.5", "1_0e3")
    ),
    (spec(seeds="1:30"), "grid[0].seeds: 1:30 means one thing in YAML 1.1", "plain digits"),
    (spec(m=ranged(from_=2, to="0100", count=3)), "grid[0].m.to: 0100 means one thing", "plain digits"),
    (spec(head="name: t\nsettings: {ap: {max_projections: 1_0}}\n"), "settings.ap.max_projections: 1_0", "plain"),
    (spec(head="name: t\nsettings: {minimax: {symmetric: yes}}\n"), "settings.minimax.symmetric: yes", "true or"),
    (spec(function="{name: gaussian, scale: 010}"), "grid[0].function.scale: 010 means one thing", "plain digits"),
    (spec(where="off"), "grid[0].where: off means one thing", "quote it"),
    *(
        (spec(head=f"name: {written}\n"), f"name: {written} means one thing in YAML 1.1", "quote it")
        for written in ("on", "NO", "Off", "yes", "2026-11-22", "2026-11-22 08:00:00 +01:00", "1_000", "007")
    ),
    (spec(head="name: 1e3\n"), "name: 1000.0 will not do", "quote it"),
    (spec(head="name: .5\n"), "name: 0.5 will not do", "quote it"),
    (spec(head="name: ~\n"), "name: None will not do", "quote it"),
    (spec(head="name: true\n"), "name: True will not do", "quote it"),
    ("name: !!bool yes", "line 1, column 7: yes is no bool of YAML 1.2", "YAML"),
    ("name: !!int 1:40", "line 1, column 7: 1:40 is no int of YAML 1.2", "YAML"),
    # names
    (spec(function="[gausian]"), "grid[0].function: 'gausian' is not known", "gaussian"),
    (
        spec(function="[no_such_module:f]"),
        "grid[0].function: 'no_such_module:f' cannot be imported",
        "no_such_module.py",
    ),
    (spec(function="['math:pi']"), "grid[0].function: 'math:pi' is a float", "f(X, Y)"),
    (spec(function=f"[{LONG}]"), "grid[0].function: 'xxx", "is not known"),
    (spec(function=f"['{LONG}:f']"), "grid[0].function: 'xxx", "cannot be imported"),
    (spec(function='["a\\nb:f"]'), "grid[0].function: ", "cannot be imported"),
    (spec(sampling="[cube]"), "grid[0].sampling: 'cube' is not known", "ball-symmetric"),
    (spec(method="[qr]"), "grid[0].method: 'qr' is not known", "svd"),
    # seeds
    (spec(seeds="0"), "grid[0].seeds: 0 trials", "at least 1"),
    (spec(seeds="-2"), "grid[0].seeds: -2 trials", "at least 1"),
    (spec(seeds="999999999"), "grid[0].seeds: 999999999 trials", "100000"),
    (spec(seeds="2.5"), "grid[0].seeds: 2.5", "count"),
    (spec(seeds="true"), "grid[0].seeds: True", "count"),
    (spec(seeds="'5'"), "grid[0].seeds: '5'", "count"),
    (spec(seeds="[0, -1]"), "grid[0].seeds: item 1: -1", "between 0 and"),
    (spec(seeds="9" * 4000), "grid[0].seeds: 999", "count"),
    # ranges
    (spec(m=ranged(from_=2, to=5)), "grid[0].m: count: is missing", "add it"),
    (spec(m=ranged(fro=2, to=5, count=2)), "grid[0].m: fro: is not a known key", "did you mean from?"),
    (spec(m=ranged(from_=2, to=5, count=2, step=1)), "grid[0].m: step: is not a known key", "scale"),
    (spec(m=ranged(from_=2, to=5, count=1)), "grid[0].m: count: 1", "2"),
    (spec(m=ranged(from_=2, to=5, count=9)), "grid[0].m: count: 9", "4 integers"),
    (spec(m=ranged(from_=5, to=2, count=2)), "grid[0].m: to: 2", "from: 5"),
    (spec(m=ranged(from_=2.5, to=5, count=2)), "grid[0].m: from: 2.5", "integer"),
    (spec(m=ranged(from_=2, to="'5'", count=2)), "grid[0].m: to: '5'", "integer"),
    (spec(m=ranged(from_=-2, to=5, count=2)), "grid[0].m: from: -2", "0"),
    (spec(m=ranged(from_=0, to=5, count=2)), "grid[0].m: item 0: 0", "between 1 and"),
    (spec(seeds=ranged(from_=0, to=5, count=2, scale="log")), "grid[0].seeds: from: 0 has no logarithm", "linear"),
    (spec(m=ranged(from_=2, to=5, count=2, scale="cubic")), "grid[0].m: scale: 'cubic'", "log"),
    (spec(m=ranged(from_=1, to=99999999, count=200000)), "grid[0].m: count: 200000", "100000"),
    (spec(function=ranged(from_=2, to=5, count=2)), "grid[0].function: {", "list the labels"),
    # axes of numbers
    (ranks(tolerance="0.1"), "grid[0].tolerance: 0.1 is not a list", "write [0.1]"),
    (ranks(tolerance="[0.1, '0.2']"), "grid[0].tolerance: item 1: '0.2' is not a number", "0.01"),
    (ranks(tolerance="[small]"), "grid[0].tolerance: item 0: 'small' is not a number", "0.01"),
    (ranks(tolerance="[true]"), "grid[0].tolerance: item 0: True is not a number", "0.01"),
    (ranks(tolerance="[null]"), "grid[0].tolerance: item 0: None is not a number", "0.01"),
    (ranks(tolerance="[[0.1]]"), "grid[0].tolerance: item 0: [0.1] is not a number", "0.01"),
    (ranks(tolerance="[{name: gaussian}]"), "grid[0].tolerance: item 0: {'name': 'gaussian'} is not a number", "0.01"),
    (ranks(tolerance="{name: gaussian}"), "grid[0].tolerance: name: is not a known key", "from, to, count"),
    (ranks(tolerance="{file: data.npy}"), "grid[0].tolerance: file: is not a known key", "from, to, count"),
    (ranks(tolerance="[0.1, 0]"), "grid[0].tolerance: item 1: 0.0 is not a finite number above 0", "0"),
    (ranks(tolerance="[-0.0]"), "grid[0].tolerance: item 0: -0.0 is not a finite number above 0", "0"),
    (ranks(tolerance="[-1]"), "grid[0].tolerance: item 0: -1.0 is not a finite number above 0", "0"),
    (ranks(tolerance="[.nan]"), "grid[0].tolerance: item 0: nan is not a finite number", "0"),
    (ranks(tolerance="[.inf]"), "grid[0].tolerance: item 0: inf is not a finite number", "0"),
    (ranks(tolerance="[1e999]"), "grid[0].tolerance: item 0: inf is not a finite number", "0"),
    (ranks(tolerance="[1e-999]"), "grid[0].tolerance: item 0: 0.0 is not a finite number above 0", "0"),
    (ranks(tolerance=f"[{'9' * 30}]"), "grid[0].tolerance: item 0: 9999999", "write it as 0.01 or 1e20"),
    (ranks(tolerance=f"[{'9' * 4000}]"), "grid[0].tolerance: item 0: 9999999", "write it as 0.01 or 1e20"),
    (ranks(tolerance="[0.1, 1e-1]"), "grid[0].tolerance: 0.1 is listed twice", "once"),
    (ranks(tolerance="[1, 0.5, 1.0]"), "grid[0].tolerance: 1.0 is listed twice", "once"),
    (ranks(tolerance=ranged(from_=0.1, to=0.5)), "grid[0].tolerance: count: is missing", "add it"),
    (ranks(tolerance=ranged(from_=0.1, to=0.5, count=1)), "grid[0].tolerance: count: 1", "2"),
    (ranks(tolerance=ranged(from_=0.1, to=0.5, count=2.5)), "grid[0].tolerance: count: 2.5", "integer"),
    (ranks(tolerance=ranged(from_=0.1, to=0.5, count=200000)), "grid[0].tolerance: count: 200000", "100000"),
    (ranks(tolerance=ranged(from_=0.5, to=0.1, count=2)), "grid[0].tolerance: to: 0.1", "from: 0.5"),
    (ranks(tolerance=ranged(from_=0.5, to=0.5, count=2)), "grid[0].tolerance: to: 0.5", "from: 0.5"),
    (ranks(tolerance=ranged(from_=-0.5, to=0.5, count=2)), "grid[0].tolerance: from: -0.5", "0"),
    (ranks(tolerance=ranged(from_=0, to=0.5, count=2)), "grid[0].tolerance: item 0: 0.0", "above 0"),
    (ranks(tolerance=ranged(from_=0, to=1, count=2, scale="log")), "grid[0].tolerance: from: 0 has no", "linear"),
    (ranks(tolerance=ranged(from_=".nan", to=0.5, count=2)), "grid[0].tolerance: from: nan", "finite"),
    (ranks(tolerance=ranged(from_=0.1, to=".inf", count=2)), "grid[0].tolerance: to: inf", "finite"),
    (ranks(tolerance=ranged(from_=0.1, to="9" * 400, count=2)), "grid[0].tolerance: to: 999", "number"),
    (ranks(tolerance=ranged(from_="'0.1'", to=0.5, count=2)), "grid[0].tolerance: from: '0.1'", "number"),
    (ranks(tolerance=ranged(from_="true", to=2.5, count=2)), "grid[0].tolerance: from: True", "number"),
    (ranks(tolerance=ranged(from_=0.1, to=0.5, count=2, scale="cubic")), "grid[0].tolerance: scale: 'cubic'", "log"),
    (ranks(tolerance=ranged(from_=0.1, to=0.5, count=2, step=1)), "grid[0].tolerance: step: is not", "scale"),
    (ranks(where="\"tolerance < 'a'\""), "grid[0].where: \"'a'\" is not a number", "tolerance"),
    (ranks(where="'r < 2'"), "grid[0].where: 'r' is not an axis", "tolerance"),
    (ranks(where="'tolerance < 0.01'"), "grid[0].where: 'tolerance < 0.01' leaves no cell", "loosen"),
    # what other experiments take
    (ranks(tolerance=None), "grid[0].tolerance: is missing", "add it"),
    (ranks(r="[2]"), "grid[0].r: is not a known key", "tolerance"),
    (ranks(tolerances="[2]"), "grid[0].tolerances: is not a known key", "did you mean tolerance?"),
    (ranks(method="[random_embedding]"), "grid[0].method: 'random_embedding' does not search", "svd, ap, minimax"),
    (ranks(method="[qr]"), "grid[0].method: 'qr' does not search for a rank", "svd, ap, minimax"),
    (ranks(function="[gaussian, sinh_product]"), "grid[0]: function = sinh_product breaks", "functions of two points"),
    (ranks("settings: {tolerance: {scale: percent}}\n"), "settings.tolerance.scale: 'percent'", "relative"),
    (ranks("settings: {tolerance: relative}\n"), "settings.tolerance: 'relative'", "will not do"),
    (ranks("settings: {svd: {driver: lapack}}\n"), "settings.svd: is not a known key", "tolerance, ap, minimax"),
    (spectra(k=None), "grid[0].k: is missing", "add it"),
    (spectra(k="[0]"), "grid[0].k: item 0: 0", "between 1 and"),
    (spectra(k="[1.5]"), "grid[0].k: item 0: 1.5", "integer"),
    (spectra(k="[1, 41]"), "grid[0]: n = 40, k = 41 breaks k <= n", "where: k <= n"),
    (spectra(method="[svd]"), "grid[0].method: is not a known key", "m, n, k"),
    (spectra(function="[tensor_attention]"), "grid[0]: function = tensor_attention breaks", "functions of two points"),
    (spectra("settings: {svd: {driver: lapack}}\n"), "settings.svd: is not a known key", "it has none"),
    # functions with parameters
    (spec(function="[cauchy, {name: gaussian, scal: 2}]"), "grid[0].function: item 1: gaussian has no", "use scale"),
    (spec(function="{name: inner_product, scale: 2}"), "grid[0].function: item 0: inner_product has no", "'scale'"),
    (spec(function="{name: gausian, scale: 2}"), "grid[0].function: item 0: 'gausian' is not known", "gaussian"),
    (spec(function="{name: gaussian, scale: 0}"), "grid[0].function: item 0: scale: 0.0", "between 1e-06 and"),
    (spec(function="[gaussian, {name: cauchy, scale: -1}]"), "grid[0].function: item 1: scale: -1.0", "between"),
    (spec(function="{name: gaussian, scale: [1]}"), "grid[0].function: item 0: scale: [1] is not", "number"),
    (spec(function="{name: gaussian, scale: {a: 1}}"), "grid[0].function: item 0: scale: {'a': 1} is not", "number"),
    (spec(function="{name: gaussian, scale: '2'}"), "grid[0].function: item 0: scale: '2' is not", "number"),
    (spec(function="{name: gaussian, scale: true}"), "grid[0].function: item 0: scale: True is not", "number"),
    (spec(function="{name: gaussian, scale: null}"), "grid[0].function: item 0: scale: None is not", "number"),
    (spec(function="{name: gaussian, scale: .nan}"), "grid[0].function: item 0: scale: nan", "is not"),
    (spec(function="{name: gaussian, scale: .inf}"), "grid[0].function: item 0: scale: inf is not", "finite"),
    (spec(function=f"{{name: gaussian, scale: {'9' * 4000}}}"), "grid[0].function: item 0: scale: 999", "is not"),
    (spec(function="{name: polynomial, degree: 2.5}"), "grid[0].function: item 0: degree: 2.5", "integer"),
    (spec(function=f"{{name: polynomial, degree: {'9' * 400}}}"), "grid[0].function: item 0: degree: 99", "integer"),
    (spec(function="{name: polynomial, degree: 21}"), "grid[0].function: item 0: degree: 21", "between 1 and 20"),
    (spec(function="{name: block_softmax, side: 5}"), "grid[0].function: item 0: side: 5", "use one of 2, 4"),
    (spec(function="{name: gaussian, 5: 2}"), "grid[0].function: item 0: gaussian has no parameter '5'", "use scale"),
    (spec(function="{name: gaussian, file: data.npy}"), "grid[0].function: item 0: gaussian has no", "'file'"),
    (spec(function=f"{{name: gaussian, {LONG[:100]}: 2}}"), "grid[0].function: item 0: gaussian has no", "use scale"),
    (spec(function="[gaussian, {name: gaussian, scale: 1}]"), "grid[0].function: 'gaussian' is listed twice", "once"),
    (
        spec(function="['gaussian(scale=2)', {name: gaussian, scale: 2.0}]"),
        "grid[0].function: 'gaussian(scale=2)' is listed twice",
        "once",
    ),
    (spec(function="['gaussian(scale=1)']"), "grid[0].function: 'gaussian(scale=1)' is written gaussian", "written"),
    (spec(function="['gaussian(scale)']"), "grid[0].function: 'gaussian(scale)' cannot be read", "name(key=number)"),
    *(
        (spec(function=written), f"grid[0].function: item {place}: {{", "write {name: gaussian, scale: 2}")
        for written, place in (
            ("{name: {gaussian: 2}}", 0),
            ("[cauchy, {name: [gaussian]}]", 1),
            ("[{name: 5}]", 0),
            ("[{name: null, scale: 2}]", 0),
            ("[cauchy, {gaussian: {scale: 2}}]", 1),
            ("[{scale: 2}]", 0),
            ("[{}]", 0),
        )
    ),
    (spec(function="[cauchy, {file: data.npy}]"), "grid[0].function[1].file: data.npy is not there", "beside the spec"),
    (spec(function="[cauchy, {file: [1]}]"), "grid[0].function[1].file: [1] is not a text", "name a .npy file"),
    (spec(function="[cauchy, {file: a, more: 1}]"), "grid[0].function: item 1: {'file'", "write {name: gaussian"),
    (spec(function="{gaussian: {scale: 2}}"), "grid[0].function: {'gaussian': {'scale': 2}} will not do", "list"),
    (spec(function="[[{name: gaussian, scale: 2}]]"), "grid[0].function: item 0: [", "is not a text"),
    (spec(sampling="[{name: ball-symmetric}]"), "grid[0].sampling: item 0: {'name'", "is not a text"),
    (spec(function="{name: 'math:pi', scale: 2}"), "grid[0].function: 'math:pi' is a float", "f(X, Y)"),
    (spec(function="{name: 'no_such_module:f', a: 2}"), "grid[0].function: 'no_such_module:f' cannot be", "PYTHONPATH"),
    (spec(function="{name: 'math:exp', 'a b': 2}"), "grid[0].function: 'math:exp(a b=2)' cannot be read", "key=number"),
    (spec(function="{name: 'math:exp', \"a\\nb\": 2}"), "grid[0].function: 'math:exp(a", "key=number"),
    (spec(function="{name: 'math:exp', a: [2]}"), "grid[0].function: item 0: a: [2] is not", "number"),
    *(
        (
            spec(function=f"{{name: 'math:exp', a: {written}}}"),
            f"grid[0].function: item 0: a: {value} is not a finite number up to 1e+15, true or false",
            "leave it out for the function's own default",  # which is not claimed to be known
        )
        for written, value in (
            ("null", "None"),
            ("fast", "'fast'"),
            (".nan", "nan"),
            ("1e300", "1e+300"),
            ("'true'", "'true'"),
        )
    ),
    (spec(function="{name: gaussian, scale: false}"), "grid[0].function: item 0: scale: False is not", "out for 1.0"),
    (spec(function="['math:exp(a=True)']"), "grid[0].function: 'math:exp(a=True)' cannot be read", "true or false"),
    # where
    (spec(where="5"), "grid[0].where: 5 is not a text", "r <= n / 2"),
    (spec(where="[r]"), "grid[0].where: ['r'] is not a text", "r <= n / 2"),
    (spec(where="true"), "grid[0].where: True is not a text", "r <= n / 2"),
    (spec(where="'q < 2'"), "grid[0].where: 'q' is not an axis", "seed"),
    (spec(where="'r <'"), "grid[0].where: 'r <' cannot be read", "seed"),
    (spec(where="'r'"), "grid[0].where: 'r' is not a comparison", "seed"),
    (spec(where="'method < 5'"), "grid[0].where: '5' is not a text", "seed"),
    (spec(where="'open(r) < 5'"), "grid[0].where: 'open(r)' is not part of the language", "seed"),
    (spec(where="'r > 100'"), "grid[0].where: 'r > 100' leaves no cell", "loosen"),
    (spec(where="'" + "r < 1 or " * 150 + "r < 2'"), "grid[0].where: 1355 characters", "1000"),
    (spec(where=f"'{LONG} < 2'"), "grid[0].where: 'xxx", "is not an axis"),
    (spec(where=f"'{'r + ' * 200}r > 9999'"), "grid[0].where: 'r + r", "leaves no cell"),
    # constraints
    (spec(function="[block_graphon]"), "grid[0]: function = block_graphon, sampling = ball-", "use cube-symmetric"),
    (
        ranks(function="[gaussian, {name: block_graphon, blocks: 2}]"),
        "grid[0]: function = block_graphon(blocks=2), sampling = ball-",
        "use cube-symmetric",
    ),
    (spectra(function="[minimum_graphon]"), "grid[0]: function = minimum_graphon, sampling = ", "use cube-symmetric"),
    (spec(r="[2, 50]"), "grid[0]", "r = 50"),
    (spec() + spec(n="[3]").splitlines()[2] + "\n", "grid[1]", "n = 3"),
    (spec(r="[50]", n="[40, 60]", where="'n > 30'"), "grid[0]", "n = 40"),
    (
        spec(function="[gaussian, sinh_product]", method="[svd, random_embedding]"),
        "grid[0]: function = sinh_product, method = random_embedding breaks the rule that random_embedding is for ",
        "use svd, ap, minimax for functions of more than two points, in a block of their own",
    ),
    (
        spec() + spec(function="[tensor_attention]", method="[random_embedding]").splitlines()[2] + "\n",
        "grid[1]: function = tensor_attention, method = random_embedding breaks ",
        "matrices",
    ),
    *(
        (
            spec(
                head=f"name: t\nsettings: {{minimax: {{warm_start: {kind}}}}}\n",
                function="[gaussian, sinh_product]",
                method="[svd, minimax]",
            ),
            "grid[0]: function = sinh_product, method = minimax breaks the rule that minimax.warm_start is for ",
            "leave it out, or give functions of more than two points a sweep of their own",
        )
        for kind in ("rank", "size")
    ),
    (spec(function="[sinh_product]", r="[41]"), "grid[0]: n = 40, r = 41 breaks r <= n", "lower r"),
    # settings
    (spec(head="name: t\nsettings: 5\n"), "settings: 5", "will not do"),
    (spec(head="name: t\nsettings:\n"), "settings: None", "will not do"),
    (spec(head="name: t\nsettings: {app: {}}\n"), "settings.app: is not a known key", "did you mean ap?"),
    (spec(head="name: t\nsettings: {ap: 5}\n"), "settings.ap: 5", "will not do"),
    (spec(head="name: t\nsettings: {ap: {projecton: exact}}\n"), "settings.ap.projecton: ", "did you mean projection?"),
    (spec(head="name: t\nsettings: {ap: {projection: inexact}}\n"), "settings.ap.projection: 'inexact'", "subspace"),
    (spec(head="name: t\nsettings: {ap: {tolerance: 0}}\n"), "settings.ap.tolerance: 0", "greater than 0"),
    (spec(head="name: t\nsettings: {ap: {tolerance: .nan}}\n"), "settings.ap.tolerance: nan", "less than 1"),
    (spec(head="name: t\nsettings: {ap: {max_projections: 2.5}}\n"), "settings.ap.max_projections: 2.5", "integer"),
    (spec(head="name: t\nsettings: {svd: {oversampling: -1}}\n"), "settings.svd.oversampling: -1", "0"),
    (spec(head="name: t\nsettings: {svd: {driver: gesvd}}\n"), "settings.svd.driver: 'gesvd'", "lapack"),
    # size
    (
        spec(m=ranged(from_=1, to=99999, count=99999), n=ranged(from_=100, to=99999, count=9999)),
        "grid: ",
        "20000000",
    ),
    (MILLION + spec(m="[*f]"), "", "item 0"),
]


def test_the_texts_are_bad_by_their_changes_alone():
    assert parse_sweep(spec()).wanted.sum() == 6


def test_matrices_and_tensors_go_together_where_each_has_methods_of_its_own():
    warm = "name: t\nsettings: {minimax: {warm_start: rank}}\n"
    methods = "[svd, ap, minimax]"
    for text, cells in (
        (spec(function="[gaussian, sinh_product, tensor_attention]", method=methods), 54),
        (spec(method="[random_embedding]") + spec(function="[sinh_product]", method=methods).splitlines()[2], 24),
        (
            spec(
                function="[gaussian, sinh_product]",
                method="[svd, random_embedding]",
                where="function == 'gaussian' or method == 'svd'",
            ),
            18,
        ),
        (spec(warm, method="[minimax]") + spec(function="[sinh_product]", method="[svd, ap]").splitlines()[2], 18),
        (spec("name: t\nsettings: {minimax: {budget: quick}}\n", function="[sinh_product]", method=methods), 18),
    ):
        assert parse_sweep(text).wanted.sum() == cells


def test_users_function_of_three_points_is_refused_as_a_matrix(user_module):
    name = user_module("def pair(X, Y): ...\ndef triple(X, Y, Z): ...\n")
    assert parse_sweep(spec(function=f"['{name}:pair']", method="[random_embedding]"), allow_code=True).wanted.all()
    assert parse_sweep(spec(function=f"['{name}:triple']", method="[minimax]"), allow_code=True).wanted.all()
    with pytest.raises(InputError) as caught:
        parse_sweep(spec(function=f"['{name}:triple']", method="[random_embedding]"), allow_code=True)
    told = f"grid[0]: function = {name}:triple, method = random_embedding breaks the rule that "
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "start", "told"),
    BAD,
    ids=[f"{number}: {start or told}"[:60] for number, (_, start, told) in enumerate(BAD)],
)
def test_bad_specification_is_refused_in_one_short_line(text, start, told):
    with pytest.raises(InputError) as caught:
        parse_sweep(text, allow_code=True)
    message = str(caught.value)
    assert message.startswith(start)
    assert told in message
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0x1F", 31), ("0o17", 15), ("+12", 12), ("1e-3", 1e-3), ("1e3", 1e3), ("1.5E2", 150.0), (".5", 0.5),
        ("-.5", -0.5), ("2.", 2.0), ("true", True), ("FALSE", False), ("Null", None), ("", None), ("-.INF", -math.inf),
        ("y", "y"), ("n", "n"), ("04:00:00", "04:00:00"), ("=", "="), ("<<", "<<"), ("1e", "1e"), ("0x", "0x"),
        ("'on'", "on"), ('"0100"', "0100"), ("!!str 1:40", "1:40"), ("!!str yes", "yes"), ("!!int 0100", 100),
        ("!!float 1", 1.0),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema_of_yaml_1_2(written, meant):
    found = parse_yaml(f"a: {written}")["a"]
    assert (type(found), found) == (type(meant), meant)


def test_keys_that_yaml_1_1_reads_as_truth_values_are_texts():
    assert parse_yaml("on: 1\nn: 2\n'yes': 3\n") == {"on": 1, "n": 2, "yes": 3}


def test_figures_in_the_text_of_an_older_store_are_read_beside_spellings_that_are_refused_now():
    text = spec(n="[1_000]", head="name: on\nfigures: [{name: one, x: r, lines: method}]\n")
    assert declared_figures(text, get_experiment("approximation", allow_code=False))[0].name == "one"
