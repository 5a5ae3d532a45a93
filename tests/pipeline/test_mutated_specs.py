"""A thousand spoilt specifications and some bombs: each is a sweep, or is refused in one line at little cost."""

import random
import re
import resource
import sys
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.grid import MAX_CELLS, load_sweep, parse_sweep

MUTATED = 1000
GROUPS = 20
LONGEST_MESSAGE = 800
BOMB_SECONDS = 20  # of the processor
BOMB_BYTES = 100e6
MODULE = "spoilt_module"  # importing it leaves a trace

VALID = [
    (Path(str(files("flows"))) / "sweeps" / "quickstart.yaml").read_text(encoding="utf-8"),
    """
name: curves-in-m
settings: {minimax: {budget: quick}, ap: {projection: exact, tolerance: 0.01}, certificate: {bound: tail}}
grid:
  - function: [exponential, quartic_gaussian]
    sampling: [ball-independent, ball-symmetric]
    m: {from: 2, to: 1000, count: 12, scale: log}
    n: [500, 1000]
    r: [10, 50]
    method: [svd, ap, minimax]
    seeds: 5
    where: r <= n / 4 and (m in (2, 10) or sqrt(m) < 3 * log(n) or method == 'svd')
""",
    """
name: two-blocks
experiment: approximation
grid:
  - &first {function: [cauchy], sampling: [sphere-symmetric], m: [2], n: [40], r: [2, 4], method: [svd], seeds: [0, 7]}
  - <<: *first
    function: [gaussian, attention]
    m: {from: 2, to: 9, count: 3}
    seeds: 3
    where: not r > n
""",
]
ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join(['*' + old] * 10)}]}}\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
SCALARS = [
    "", "null", "~", "true", "no", "0", "-1", "1e9", "10" * 9, "9" * 5000, "0x" + "f" * 5000, "0o17", "0b1", "1_000",
    "1:30:00", "2.5", ".nan", "-.inf", "1e999", "2026-11-22", "2026-11-22 08:00:00 +01:00", "2024-13-45", "x" * 3000,
    "[]", "{}", "[[2]]", "[[[[[[[[[[1]]]]]]]]]]", "{a: {b: {c: 1}}", "{from: 1, to: 1000000000, count: 1000000000}",
    "{from: 1, to: 99999, count: 99999}", "1000000000", "100000", "'", '"', "|", ">", "*first", "*a", "&a [*a]", "<<",
    "!!python/object/apply:os.system [true]", f"!!python/name:{MODULE}.f", "!!binary aGk=", "!!set {a, b}", "!local x",
    "!!timestamp soon", "!!int ''", "!!float x", "!!bool maybe", "!!pairs [a: 1]", "!!omap [a: 1]", "? x", "- x", "%",
    f"['{MODULE}:f']", f"{MODULE}:f", "['../up:f']", "[':']", "['os:system']", '"\\e[31mred"', '"\\0"', '"\\ud800"',
    '"two\\nlines"', "é", "💥", "\u2028", "\u200f", "__import__('os').system('true') < 1", "'r ** r ** r ** r > 0'",
    "'m if m else n'", "9 ** 9 ** 9 ** 9 > m", "'" + "(" * 300 + "r" + ")" * 300 + " < 1'", "(lambda: 1)() < r",
]  # fmt: skip
CHARACTERS = "\0\t\n\r \"'#%&*,-:<>?@[\\]`{|}!~019aeénr\x1b\x7f\x85\u2028\ufeff\udcff💥"


def mutate(text, chance):
    """One change of a text."""
    lines = text.split("\n")
    here, there = chance.randrange(len(lines)), chance.randrange(len(lines))
    at = chance.randrange(len(text) + 1)
    match chance.randrange(12):
        case 0:
            return text[:at] + chance.choice(CHARACTERS) + text[at + 1 :]
        case 1:
            return text[:at] + chance.choice(CHARACTERS) + text[at:]
        case 2:
            return text[:at] + text[at + chance.randrange(1, 9) :]
        case 3:
            return text[:at]
        case 4:
            del lines[here]
        case 5:
            lines.insert(there, lines[here])
        case 6:
            lines[here], lines[there] = lines[there], lines[here]
        case 7:
            lines[here] = " " * chance.randrange(1, 5) + lines[here]
        case 8:
            lines.insert(here, chance.choice([ALIASES, MERGES, "---", "...", "%YAML 1.1", "? [a]", "- - -"]))
        case _:
            scalars = list(re.finditer(r"'[^']*'|[\w.-]+", text)) or [re.match("", text)]
            scalar = chance.choice(scalars)
            return text[: scalar.start()] + chance.choice(SCALARS) + text[scalar.end() :]
    return "\n".join(lines)


def spoilt(number):
    """The bytes of a mutated specification."""
    chance = random.Random(number)
    text = VALID[number % len(VALID)]
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        text = mutate(text, chance)
    return text.encode(errors="surrogateescape" if chance.random() < 0.5 else "replace")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module on the import path that no spec may import."""
    (tmp_path / f"{MODULE}.py").write_text("def f(X, Y):\n    return X @ Y.T\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    assert MODULE not in sys.modules


@pytest.mark.parametrize("group", range(GROUPS))
def test_mutated_spec_is_a_sweep_or_refused_in_one_line(group, tmp_path, module):
    path = tmp_path / "spoilt.yaml"
    for number in range(group, MUTATED, GROUPS):
        path.write_bytes(spoilt(number))
        try:
            sweep = load_sweep(path)
        except InputError as error:
            message = str(error)
            assert message.isprintable(), (number, message)
            assert len(message) < LONGEST_MESSAGE, (number, message)
        else:
            assert 0 < sweep.wanted.sum() <= sweep.wanted.size <= MAX_CELLS, number
            assert sweep.wanted.shape == tuple(map(len, sweep.labels.values())), number


def test_specs_are_bad_by_their_mutations_alone():
    assert all(parse_sweep(text).wanted.any() for text in VALID)


def test_mutations_leave_some_specs_valid_and_spoil_most(tmp_path):
    valid = 0
    for number in range(100):
        (tmp_path / "spoilt.yaml").write_bytes(spoilt(number))
        try:
            valid += bool(load_sweep(tmp_path / "spoilt.yaml").wanted.any())
        except InputError:
            continue
    assert 5 <= valid <= 60


LARGE = 190_000
BLOCK = "  - {function: [gaussian], sampling: [ball-symmetric], m: %s, n: %s, r: [2], method: [svd], seeds: %s}\n"
MANY = "{from: 1, to: 20000, count: 20000}"
BOMBS = {
    "aliases": ALIASES + "name: t\ngrid: *j\n",
    "merge keys": MERGES + "name: t\ngrid: [*j]\n",
    "sexagesimal integer": "name: t\nseeds: 1" + ":1" * (LARGE // 2),
    "sexagesimal float": "name: t\nseeds: 1" + ":1" * (LARGE // 2) + ".5",
    "digits": "name: " + "9" * LARGE,
    "hexadecimal digits": "name: 0x" + "f" * LARGE,
    "brackets": "name: " + "[" * LARGE,
    "braces": "{" * LARGE,
    "dashes": "- " * (LARGE // 2),
    "keys": "".join(f"k{number}: 1\n" for number in range(LARGE // 60)),
    "labels": "name: t\ngrid:\n" + BLOCK % ("[" + "1," * (LARGE // 8) + "]", "[40]", 1),
    "blocks": "name: t\ngrid:\n" + "  - {m: [2]}\n" * 2000,
    "blocks of many cells": "name: t\ngrid:\n" + BLOCK % (MANY, "[200]", 1000) * 900,
    "cells": "name: t\ngrid:\n" + BLOCK % (MANY, "{from: 100, to: 2000, count: 1900}", 100000),
    "range": "name: t\ngrid:\n" + BLOCK % ("{from: 1, to: 1000000000, count: 1000000000}", "[40]", 1),
    "seeds": "name: t\ngrid:\n" + BLOCK % ("[2]", "[40]", 10**9),
    "characters": "#" * 10_000_000,
}


def resident(key):
    """Bytes of this process in memory: now (VmRSS) or at its peak (VmHWM)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[key].split()[0])


@contextmanager
def processor_seconds(limit):
    """Have the system end this process if it computes longer."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + limit), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, hard))


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_before_it_costs_time_or_memory(name):
    with processor_seconds(BOMB_SECONDS):
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        with pytest.raises(InputError) as caught:
            parse_sweep(BOMBS[name])
        assert resident("VmHWM") - before < BOMB_BYTES
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < LONGEST_MESSAGE
