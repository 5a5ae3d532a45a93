"""Bad input at the command line: one clear line, exit code 2, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flows.cli import cli, main
from flows.specs import find_sweep
from pipeline.experiment import Outcome
from storage import Writer
from storage.lock import single_writer
from tests.support import BLOCK


def spec_text(*, top: str = "", extra: str = "", **changes: str) -> str:
    block = {key: value for key, value in (BLOCK | changes).items() if value}
    return "name: bad\n" + top + "grid:\n  - {" + ", ".join(f"{k}: {v}" for k, v in block.items()) + extra + "}\n"


def refused(capsys, *arguments: object) -> str:
    """Run the command line, which must refuse in one line; returns it."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    line = capsys.readouterr().err
    assert exit_.value.code == 2
    assert line.startswith("epsweep: ")
    assert line.count("\n") == 1
    assert "Traceback" not in line
    return line.removeprefix("epsweep: ")


BAD_SPECS = {
    "empty": ("", "the spec is empty"),
    "list": ("- 1", "the spec is a list"),
    "not yaml": ("a: [", "the spec must be valid YAML"),
    "tab": ("name: x\n\ty: 1", "line 2"),
    "key twice": (spec_text(top="name: again\n"), "the key 'name' is given twice"),
    "no grid": ("name: bad\n", "grid: is missing; add it"),
    "no name": (spec_text().replace("name: bad", ""), "name: is missing; add it"),
    "empty grid": ("name: bad\ngrid: []\n", "grid: []"),
    "grid of numbers": ("name: bad\ngrid: [3]\n", "grid[0]: 3"),
    "name with a slash": (spec_text().replace("bad", "a/b"), "name: 'a/b'"),
    "numeric name": (spec_text().replace("bad", "3"), "name: 3"),
    "unknown key": (spec_text(top="gird: 3\n"), "gird: is not a known key; did you mean grid?"),
    "unknown axis": (spec_text(extra=", rank: [2]"), "grid[0].rank: is not a known key"),
    "seed for seeds": (spec_text(seeds="", extra=", seed: 3"), "grid[0].seed: is not a known key; did you mean seeds?"),
    "missing axis": (spec_text(m=""), "grid[0].m: is missing; add it"),
    "empty axis": (spec_text(m="[]"), "grid[0].m: the list is empty"),
    "scalar axis": (spec_text(m="3"), "grid[0].m: 3 is not a list; write [3]"),
    "label twice": (spec_text(m="[3, 3]"), "grid[0].m: 3 is listed twice"),
    "negative size": (spec_text(n="[-5]"), "grid[0].n: item 0: -5"),
    "zero rank": (spec_text(r="[0]"), "grid[0].r: item 0: 0"),
    "fraction": (spec_text(r="[2.5]"), "grid[0].r: item 0: 2.5 is not an integer"),
    "text for a number": (spec_text(m="[1e3]"), "grid[0].m: item 0: 1000.0 is not an integer"),
    "truth for a number": (spec_text(m="[true]"), "grid[0].m: item 0: True is not an integer"),
    "number for a text": (spec_text(method="[3]"), "grid[0].method: item 0: 3 is not a text"),
    "nested list": (spec_text(m="[[2]]"), "grid[0].m: item 0: [2]"),
    "rank above size": (spec_text(r="[50]"), "n = 40, r = 50 breaks r <= n"),
    "unknown function": (spec_text(function="[gausian]"), "grid[0].function: 'gausian' is not known"),
    "unknown sampling": (spec_text(sampling="[cube]"), "grid[0].sampling: 'cube' is not known"),
    "unknown method": (spec_text(method="[qr]"), "grid[0].method: 'qr' is not known"),
    "unknown experiment": (spec_text(top="experiment: magic\n"), "experiment: 'magic' is not known"),
    "no such module": (spec_text(function="['nowhere:f']"), "'nowhere:f' cannot be imported"),
    "no such function": (spec_text(function="['math:nothing']"), "'math:nothing' cannot be imported"),
    "not a function": (spec_text(function="['math:pi']"), "name a function f(X, Y)"),
    "no trials": (spec_text(seeds="0"), "grid[0].seeds: 0 trials"),
    "negative trial": (spec_text(seeds="[-1]"), "grid[0].seeds: item 0: -1"),
    "range without count": (spec_text(m="{from: 2, to: 9}"), "count"),
    "range backwards": (spec_text(m="{from: 9, to: 2, count: 3}"), "to: 2 is not greater than from: 9"),
    "range too fine": (spec_text(m="{from: 2, to: 4, count: 9}"), "count: 9 is more than the 3 integers"),
    "range misspelt": (spec_text(m="{from: 2, to: 9, count: 3, scael: log}"), "did you mean scale?"),
    "range scale": (spec_text(m="{from: 2, to: 9, count: 3, scale: cubic}"), "'cubic'"),
    "range of names": (spec_text(method="{from: 1, to: 2, count: 2}"), "grid[0].method"),
    "where unknown name": (spec_text(extra=", where: q < 3"), "grid[0].where: 'q' is not an axis"),
    "where syntax": (spec_text(extra=", where: r <"), "grid[0].where: 'r <' cannot be read"),
    "where not a comparison": (spec_text(extra=", where: r + 1"), "is not a comparison"),
    "where code": (spec_text(extra=", where: __import__('os').system('true') == 0"), "is not part of the language"),
    "where type": (spec_text(extra=", where: method < 3"), "is not a text"),
    "where nothing left": (spec_text(extra=", where: r > n"), "leaves no cell"),
    "unknown setting": (spec_text(top="settings: {ap: {speed: 3}}\n"), "settings.ap.speed: is not a known key"),
    "setting out of range": (spec_text(top="settings: {ap: {tolerance: 3}}\n"), "settings.ap.tolerance: 3"),
    "setting value": (spec_text(top="settings: {ap: {projection: magic}}\n"), "settings.ap.projection: 'magic'"),
    "setting of no method": (spec_text(top="settings: {app: {}}\n"), "settings.app: is not a known key"),
    "too many cells": (
        spec_text(m="{from: 1, to: 99999, count: 99999}", n="{from: 10, to: 99999, count: 9999}"),
        "cells are more than",
    ),
    "too large a matrix": (spec_text(n="[2000000]"), "GiB"),
}


@pytest.mark.parametrize("case", BAD_SPECS)
def test_bad_spec_is_refused_in_one_line(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text, expected = BAD_SPECS[case]
    (tmp_path / "bad.yaml").write_text(text)
    assert expected in refused(capsys, "run", "bad.yaml", "--allow-code")
    assert os.listdir() == ["bad.yaml"]  # noqa: PTH208 (nothing was started or written)


BAD_COMMANDS = {
    "no such command": (["fly"], "No such command 'fly'"),
    "no such option": (["run", "quickstart", "--fast"], "No such option"),
    "no spec": (["run"], "Missing argument 'SPEC'"),
    "no such spec": (["run", "slowstart"], "neither a file nor a shipped sweep; shipped are"),
    "no such file": (["run", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    "folder for a spec": (["run", "."], "cannot be read"),
    "binary spec": (["run", "binary.yaml"], "is not UTF-8 text"),
    "no workers": (["run", "quickstart", "--cluster", "local:0"], "cluster: 'local:0'"),
    "wordy workers": (["run", "quickstart", "--cluster", "local:two"], "cluster: 'local:two'"),
    "unknown cluster": (["run", "quickstart", "--cluster", "moon"], "cluster: 'moon' is not local"),
    "empty profile": (["run", "quickstart", "--cluster", "profile.yaml"], "cluster: profile.yaml"),
    "far cluster without server": (["run", "quickstart", "--cluster", "tcp://example.invalid:1"], "PREFECT_API_URL"),
    "store is a URL": (["run", "quickstart", "--store", "ftp://host/x.zarr"], "ftp:// cannot hold a store"),
    "store is a folder": (["run", "quickstart", "--store", "folder"], "folder is not a result store"),
    "store is a file": (["run", "quickstart", "--store", "binary.yaml"], "binary.yaml is not a result store"),
    "store that cannot be made": (["run", "quickstart", "--store", "/proc/none/x.zarr"], "cannot be locked"),
    "name too long": (["run", "a" * 300], "File name too long"),
    "unknown format": (["plot", "nowhere.zarr", "--out", "f", "--format", "bmp"], "format: 'bmp' is not known"),
    "plan of nothing": (["plan", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    "status of nothing": (["status", "nowhere.zarr"], "nowhere.zarr does not exist"),
    "status of a folder": (["status", "folder"], "folder is not a result store"),
    "curves of nothing": (["curves", "nowhere.zarr"], "nowhere.zarr does not exist"),
    "plot without out": (["plot", "nowhere.zarr"], "Missing option '--out'"),
    "plot of nothing": (["plot", "nowhere.zarr", "--out", "figures"], "nowhere.zarr does not exist"),
    "export of nothing": (["export", "nowhere.zarr", "x.nc"], "nowhere.zarr does not exist"),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_bad_command_is_refused_in_one_line(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "profile.yaml").write_text("")
    arguments, expected = BAD_COMMANDS[case]
    assert expected in refused(capsys, *arguments)


def test_memory_is_checked_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "big.yaml").write_text(spec_text(n="[20000]", r="[10]", method="[ap]"))
    line = refused(capsys, "run", "big.yaml", "--cluster", "local:64")
    assert "a case needs" in line
    assert "n=20000, r=10, method=ap" in line


def test_configured_server_that_is_down_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert "http://127.0.0.1:9/api does not answer" in refused(capsys, "run", "quickstart")


@pytest.mark.parametrize(
    "url", ["http://user:hunter2@LOCALHOST:9/api", "http://u:hunter2 {@127.0.0.1:9/api", "http://[::1/api"]
)
def test_password_in_the_address_of_the_server_is_not_printed(url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", url)
    line = refused(capsys, "run", "quickstart")
    assert "does not answer" in line or "mend PREFECT_API_URL" in line
    assert "hunter2" not in line


def test_locked_store_is_refused_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with single_writer(tmp_path / "s.zarr"):
        line = refused(capsys, "run", "quickstart", "--store", tmp_path / "s.zarr")
    assert f"is being written by process {os.getpid()} of" in line


@pytest.mark.parametrize("command", cli.commands)
def test_help_of_every_command_shows_an_example(command, capsys):
    main([command, "--help"])
    assert f"epsweep {command}" in capsys.readouterr().out.partition("Example:")[2]


def test_list_names_what_specs_may_use(capsys):
    main(["list"])
    printed = capsys.readouterr().out
    names = ("quartic_gaussian", "sphere-symmetric", "ap", "approximation", "quickstart")
    for name in (*names, "spectrum.sigma", "approximation.identity_limit"):
        assert f"  {name} " in printed


def test_plan_counts_cells_and_matrices(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(spec_text(n="[40, 60]", extra=", where: r < 4 or n > 50"))
    main(["plan", "s.yaml", "--cluster", "local:2"])
    printed = capsys.readouterr().out
    assert "cells:    9\n" in printed
    assert "9 cells of 6 matrices" in printed
    assert "predicted on 2 worker threads" in printed
    assert "note:" not in printed


def test_plan_tells_a_range_of_fewer_labels_than_its_count(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(spec_text(m="{from: 1, to: 10, count: 9, scale: log}"))
    main(["plan", "s.yaml"])
    told = "note:     grid[0].m: {from: 1, to: 10, count: 9, scale: log} gives 7 labels, not 9: some are rounded to the"
    assert told in capsys.readouterr().out


OWN = "import numpy as np\nSCALE = 1.0\n\n\ndef f(X, Y):\n    return np.exp(-SCALE * abs(X @ Y.T))\n"


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """Write a module anew, as before the next command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(name: str, text: str) -> None:
        sys.modules.pop("own_cli", None)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    yield write
    sys.modules.pop("own_cli", None)


def test_changed_function_is_refused_until_it_is_accepted(own_code, tmp_path, capsys):
    """Kinds: a constant of the module, before cells are computed and where none are left to compute."""
    own_code("own_cli.py", OWN)
    (tmp_path / "s.yaml").write_text(spec_text(function="['own_cli:f']", r="[2]", seeds="1"))
    _, sweep = find_sweep("s.yaml", allow_code=True)
    values = {"epsilon": 0.5, "lower_bound": 0.0, "max_norm": 1.0, "iterations": 1, "seconds": 0.0}
    with Writer.open("s.zarr", sweep) as writer:
        writer.write(np.argwhere(sweep.wanted), [Outcome(values)])
    own_code("own_cli.py", OWN.replace("1.0", "2.0"))
    arguments = ["s.yaml", "--store", "s.zarr", "--allow-code"]
    for command in ("plan", "run"):
        line = refused(capsys, command, *arguments)
        assert "computed with other code of own_cli:f" in line
        assert "use another --store, or --accept-code" in line
    main(["plan", *arguments, "--accept-code"])
    assert "done:     1\n" in capsys.readouterr().out
    with single_writer("s.zarr"):  # by another run: the digest is not recorded, which costs nothing
        main(["run", *arguments, "--accept-code"])
    assert "done: 1 of 1 cells" in capsys.readouterr().out
    main(["run", *arguments, "--accept-code"])  # nothing is left, but the digest is recorded
    assert "done: 1 of 1 cells" in capsys.readouterr().out
    main(["run", *arguments])
    own_code("own_cli.py", OWN)
    assert "other code of own_cli:f" in refused(capsys, "run", *arguments)


def test_module_beside_a_spec_that_another_of_its_name_hides_is_named(own_code, tmp_path, capsys):
    own_code("own_cli.py", OWN)
    own_code("deeper/own_cli.py", OWN.replace("1.0", "2.0"))
    for path in ("s.yaml", "deeper/s.yaml"):
        (tmp_path / path).write_text(spec_text(function="['own_cli:f']"))
    main(["plan", "s.yaml", "--allow-code"])
    line = refused(capsys, "plan", "deeper/s.yaml", "--allow-code")
    assert f"{tmp_path / 'deeper/own_cli.py'} is hidden by {tmp_path / 'own_cli.py'}" in line


@pytest.mark.parametrize("name", ["storage", "pipeline", "queue", "numpy"])
def test_function_in_a_file_with_the_name_of_a_module_is_refused_with_that_word(own_code, tmp_path, capsys, name):
    own_code(f"{name}.py", OWN)
    (tmp_path / "s.yaml").write_text(spec_text(function=f"['{name}:f']"))
    line = refused(capsys, "plan", "s.yaml", "--allow-code")
    assert f"{tmp_path / name}.py is hidden by" in line
    assert "rename the file" in line


def test_folder_with_names_of_modules_hides_none_and_one_on_the_path_is_named(tmp_path):
    for name in ("storage", "pipeline", "click", "json", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the folder')\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "flows", "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "json.py").unlink()
    told = subprocess.run(
        [sys.executable, "-m", "flows", "--version"],
        env=environment | {"PYTHONPATH": str(tmp_path)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (told.returncode, told.stderr.count("\n")) == (2, 1), told.stderr
    assert told.stderr.startswith(f"epsweep: {tmp_path / 'pipeline.py'} hides this package's pipeline; rename it")
    (tmp_path / "flows.py").write_text("raise SystemExit('imported from the path')\n")
    told = subprocess.run(
        [Path(sys.executable).with_name("epsweep"), "--version"],
        env=environment | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (told.returncode, told.stderr.count("\n")) == (2, 1), told.stderr
    assert told.stderr.startswith(f"epsweep: {tmp_path / 'flows.py'} hides this package's flows; rename it")
