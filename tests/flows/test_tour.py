"""The README's tour runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import xarray as xr

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def test_the_tour_runs_as_printed(tmp_path):
    tour = README.read_text(encoding="utf-8").partition("\n## A tour\n")[2].partition("\n## ")[0]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(tmp_path / "prefect"),
    }
    commands = 0
    for kind, text in BLOCK.findall(tour):
        if kind == "sh":
            for line in text.splitlines():
                ran = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
                assert ran.returncode == 0, f"{line}\n{ran.stdout}\n{ran.stderr}"
                commands += 1
        else:
            first, _, _ = text.partition("\n")
            assert re.fullmatch(r"# \w+\.(py|yaml)", first), "a block that is not a command begins with its file's name"
            (tmp_path / first.removeprefix("# ")).write_text(text)
    assert commands == 6
    for name, cells in {"matrix": 6, "function": 48, "condition": 36}.items():
        with xr.open_zarr(tmp_path / "results" / f"{name}.zarr") as ds:
            assert int((ds["status"] == 1).sum()) == cells
            assert len(list((tmp_path / "results" / f"{name}.figures").glob("*.png"))) > 0
    assert (tmp_path / "figures" / "condition-against-r.png").exists()
