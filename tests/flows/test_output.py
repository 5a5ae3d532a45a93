"""What is printed reaches any terminal and any pipe, without a traceback."""

import os
import subprocess
import sys

import pytest


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments], text=True, errors="replace", timeout=120, **options
    )


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii:strict"])
def test_terminal_that_cannot_show_a_letter_gets_it_spelt(encoding):
    done = run("list", capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, "")
    assert "quickstart" in done.stdout


@pytest.mark.parametrize(("arguments", "stream"), [(["list"], "stdout"), (["--help"], "stdout"), (["fly"], "stderr")])
def test_pipe_that_is_closed_ends_the_command_without_a_word(arguments, stream):
    reading, writing = os.pipe()
    os.close(reading)
    other = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = run(*arguments, **other | {stream: writing})
    os.close(writing)
    assert done.returncode == 141  # as of a program that SIGPIPE ends
    assert (done.stdout or "") + (done.stderr or "") == ""
