"""What was checked is what runs: the text of a specification, its folder, and the contents of files that it names."""

import os
import subprocess
import sys

import numpy as np
import pytest

from flows.sweep import load
from pipeline.errors import InputError
from pipeline.grid import load_sweep
from tests.support import BLOCK

SPEC = "name: t\ngrid:\n  - {function: {file: data.npy}, r: [2], method: [svd], seeds: 1}\n"


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """A sweep of a file beside its specification, run from elsewhere."""
    (tmp_path / "spec").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    np.save(tmp_path / "spec/data.npy", np.ones((6, 4)))
    (tmp_path / "spec/t.yaml").write_text(SPEC)
    return tmp_path / "spec", load_sweep(tmp_path / "spec/t.yaml")


def test_text_is_run_from_its_folder_when_its_file_is_gone(checked):
    folder, sweep = checked
    digests = sweep.digests
    (folder / "t.yaml").unlink()
    again = load(sweep.text, str(folder), digests)
    assert (again.text, again.labels, again.files) == (sweep.text, sweep.labels, sweep.files)
    assert again.used_settings == sweep.used_settings


def test_text_of_one_line_is_no_name(tmp_path):
    """A text that neither starts with a brace nor has a second line: with a folder, it is a text still."""
    line = "--- {name: t, grid: [{" + ", ".join(f"{key}: {value}" for key, value in BLOCK.items()) + "}]}"
    assert load(line, str(tmp_path)).text == line


@pytest.mark.parametrize("change", ["contents", "shape", "gone"])
def test_file_that_changes_between_check_and_flow_is_refused(change, checked):
    folder, sweep = checked
    digests = sweep.digests
    if change == "gone":
        (folder / "data.npy").unlink()
    else:
        np.save(folder / "data.npy", np.full((6, 4), 2.0) if change == "contents" else np.ones((7, 4)))
    expected = "data.npy is not there" if change == "gone" else "data.npy has changed since the run was checked"
    with pytest.raises(InputError, match=expected) as raised:
        load(sweep.text, str(folder), digests)
    assert "\n" not in str(raised.value)


def test_digest_of_a_file_that_is_not_named_is_compared(checked):
    folder, sweep = checked
    np.save(folder / "other.npy", np.ones((2, 2)))
    with pytest.raises(InputError, match=r"other.npy has changed"):
        load(sweep.text, str(folder), {"other.npy": "0" * 64})


def test_commands_that_need_no_prefect_do_not_import_it(checked):
    """`plan`, `list`, and a refused `run`, in one process."""
    folder, _ = checked
    script = (
        "import sys\nfrom flows.cli import main\n"
        "for command in (['plan', sys.argv[1]], ['list'], ['run', 'none.yaml'], ['status', 'none.zarr']):\n"
        "    try:\n        main(command)\n    except SystemExit:\n        pass\n"
        "assert 'prefect' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script, str(folder / "t.yaml")]
    environment = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
