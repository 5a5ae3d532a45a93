"""Proxies, homes and configured servers: `doctor`, `run` and `deploy` come to one verdict, and a run needs little."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SPEC = """
name: tiny
settings: {certificate: {bound: tail}}
grid:
  - {function: [gaussian], sampling: [ball-symmetric], m: [2], n: [20], r: [2], method: [svd], seeds: 1}
"""
API = "http://127.0.0.1:9/api"  # where nothing listens
PROXY = "http://127.0.0.1:9"
REFUSED = f"the configured server {API} does not answer ("
# Each case is a process of its own, forked from one that has imported everything but Prefect.
VERDICTS = """
import io, json, os, sys
from contextlib import redirect_stderr, redirect_stdout
import flows.cli, flows.cli_run, flows.cli_setup, flows.clusters, flows.doctor, flows.figures, flows.planning
import storage

def printed(*arguments):
    errors = io.StringIO()
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        try:
            flows.cli.main(list(arguments))
        except SystemExit:
            pass
    return errors.getvalue()


assert "prefect" not in sys.modules
results = []
for case in json.load(sys.stdin):
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.chdir(case["folder"])
        os.environ.clear()
        os.environ.update(case["environment"])
        findings = flows.doctor.examine(None, None, "local:1", allow_code=False)
        doctor = [[each.good, each.text] for each in (next(findings), next(findings))][1]
        run = printed("run", "tiny.yaml", "--log", "/proc/none/x.log")  # refused once the server is decided on
        deploy = printed("deploy", "x")
        os.write(writing, json.dumps([*doctor, run, deploy]).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        results.append(pipe.read())
    os.wait()
print(json.dumps(results))
"""


@dataclass
class Case:
    """An environment, files in the working directory, and what is said of Prefect: nothing where an own server will do.

    In the values, ``{folder}`` is the working directory.
    """

    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    said: str = ""
    wrong: str = ""


CASES = {
    # proxies: loopback is asked directly, another host through the proxy
    "proxy": Case({"HTTP_PROXY": PROXY, "https_proxy": PROXY}),
    "socks": Case({"ALL_PROXY": "socks5://127.0.0.1:9", "HTTP_PROXY": PROXY}),
    "unknown proxy": Case({"all_proxy": "gopher://127.0.0.1:9", "NO_PROXY": "[::1],example.com"}),
    "no proxy in brackets": Case({"NO_PROXY": "[::1]"}),
    "configured on loopback, proxy": Case(
        {"HTTP_PROXY": "http://192.0.2.1:1", "PREFECT_API_URL": API}, wrong=REFUSED + "[Errno 111]"
    ),
    "configured on loopback, socks": Case(
        {"all_proxy": "socks5h://192.0.2.1:1", "PREFECT_API_URL": API}, wrong=REFUSED + "[Errno 111]"
    ),
    "configured elsewhere, proxy": Case(
        {"HTTP_PROXY": PROXY, "PREFECT_API_URL": "http://192.0.2.1/api"},
        wrong="http://192.0.2.1/api does not answer ([Errno 111]",  # of the proxy, at once
    ),
    "configured elsewhere, socks": Case(
        {"ALL_PROXY": "socks5://127.0.0.1:9", "PREFECT_API_URL": "http://192.0.2.1/api"},
        wrong="(HTTP_PROXY, HTTPS_PROXY or ALL_PROXY: Using SOCKS proxy",
    ),
    # homes: what cannot be written is named and done without
    "HOME is not there": Case({"HOME": "{folder}/new"}, said="database in {folder}/new/.local/share/epsweep/prefect"),
    "HOME cannot be": Case({"HOME": "/proc/none"}, said="set PREFECT_HOME to a folder that can"),
    "HOME is a file": Case({"HOME": "{folder}/tiny.yaml"}, said="(Not a directory); set PREFECT_HOME"),
    "PREFECT_HOME cannot be": Case({"PREFECT_HOME": "/proc/none"}, said="/proc/none cannot be written (No such file"),
    "data folder cannot be": Case({"XDG_DATA_HOME": "/dev/null"}, said="gone with it: /dev/null/epsweep/prefect"),
    "TMPDIR cannot be": Case({"TMPDIR": "/proc", "PREFECT_HOME": "/proc/none"}, said="database in /tmp and gone"),
    # configured servers, wherever Prefect reads settings
    "server in .env": Case(files={".env": b"PREFECT_API_URL=" + API.encode()}, wrong="unset PREFECT_API_URL in .env"),
    "server in prefect.toml": Case(files={"prefect.toml": f'[api]\nurl = "{API}"'.encode()}, wrong=REFUSED),
    "server in pyproject.toml": Case(
        files={"pyproject.toml": f'[tool.prefect.api]\nurl = "{API}"'.encode()}, wrong=REFUSED
    ),
    "server in a profile": Case(
        {"PREFECT_HOME": "{folder}"},
        {
            "profiles.toml": f'active = "x"\n[profiles.x]\nPREFECT_API_URL = "{API}"'.encode(),
            ".env": b"DATABASE_URL=postgres://x",  # neither of which is of Prefect
            "pyproject.toml": b"[project.urls]\nHomepage = 'http://x'",
        },
        wrong="unset PREFECT_API_URL in {folder}/profiles.toml",
    ),
    "PREFECT_HOME of nobody": Case({"PREFECT_HOME": "~no-such-user/x"}, wrong="mend PREFECT_HOME"),
    "profile that is none": Case(
        {"PREFECT_PROFILE": "x"}, wrong="PREFECT_PROFILE: there is no profile 'x'; use one of"
    ),
    "certificate that is none": Case(
        {"PREFECT_API_URL": "https://127.0.0.1:9/api", "PREFECT_API_SSL_CERT_FILE": "none.pem"},
        wrong="(PREFECT_API_SSL_CERT_FILE: [Errno 2]",
    ),
    # broken files and values
    "broken pyproject.toml": Case(files={"pyproject.toml": b"[tool"}, wrong="pyproject.toml cannot be used (it is not"),
    "broken prefect.toml": Case(files={"prefect.toml": b"a = ["}, wrong="prefect.toml cannot be used (it is not valid"),
    "broken profiles": Case(
        {"PREFECT_HOME": "{folder}"}, {"profiles.toml": b"active ="}, wrong="{folder}/profiles.toml cannot be used"
    ),
    "binary .env": Case(files={".env": b"\xff\xfe"}, wrong=".env cannot be used (it is not UTF-8 text)"),
    "text for a number": Case(
        {"PREFECT_API_REQUEST_TIMEOUT": "soon"}, wrong="PREFECT_API_REQUEST_TIMEOUT: request_timeout: Input should be a"
    ),
    "text for a truth": Case(
        files={"prefect.toml": b'[api]\nenable_http2 = "perhaps"'}, wrong="prefect.toml: enable_http2: Input should be"
    ),
    "table that is none": Case(files={"pyproject.toml": b"tool = 3"}, wrong="mend pyproject.toml"),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Folder of each case, and as JSON whether doctor finds Prefect good, its text, and what run and deploy print."""
    clean = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    clean = {name: value for name, value in clean.items() if not name.startswith(("PREFECT_", "XDG_"))}
    tasks, folders = [], []
    for case in CASES.values():
        folder = tmp_path_factory.mktemp("case")
        (folder / "tiny.yaml").write_text(SPEC)
        for name, content in case.files.items():
            (folder / name).write_bytes(content)
        home = {"HOME": str(folder)}
        environment = clean | home | {k: v.replace("{folder}", str(folder)) for k, v in case.environment.items()}
        tasks.append({"folder": str(folder), "environment": environment})
        folders.append(folder)
    command = [sys.executable, "-c", VERDICTS]
    done = subprocess.run(command, input=json.dumps(tasks), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(zip(CASES, zip(folders, json.loads(done.stdout), strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_doctor_run_and_deploy_agree(name, verdicts):
    folder, result = verdicts[name]
    good, text, run, deploy = json.loads(result)
    said, wrong = (each.replace("{folder}", str(folder)) for each in (CASES[name].said, CASES[name].wrong))
    assert good is not bool(wrong), text
    assert (said or wrong) in text
    assert "\n" not in text
    if good:
        assert run.startswith("epsweep: /proc/none: ")  # the log, which comes after the server
        assert deploy == "epsweep: Prefect: a deployment needs a server that stays; set PREFECT_API_URL\n"
        if not said:
            assert "its database" not in text
    else:
        assert run == deploy == f"epsweep: Prefect: {text}\n"


def test_run_without_home_user_and_direct_connections_is_recorded(tmp_path):
    """The embedded server is told of flow and tasks, by requests and by events, whatever proxies there are."""
    (tmp_path / "tiny.yaml").write_text(SPEC)
    (tmp_path / "tmp").mkdir(mode=0o500)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "HTTP_PROXY": PROXY,
        "ALL_PROXY": "socks5://127.0.0.1:9",
        "TMPDIR": str(tmp_path / "tmp"),
        "XDG_CACHE_HOME": "/proc/none",
        "XDG_CONFIG_HOME": "/proc/none",
    }
    environment.pop("HOME", None)
    nobody = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]  # of no entry in the list of users
    done = subprocess.run(
        [*nobody, sys.executable, "-m", "flows", "run", "tiny.yaml", "--cluster", "local:1"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "done: 1 of 1 cells" in done.stdout
    told = ("epsweep: starting ", "1 of 1 cells, ")
    assert all(line.startswith(told) for line in done.stderr.splitlines()), done.stderr
    with closing(sqlite3.connect(tmp_path / "prefect/prefect.db")) as database:
        for table in ("flow_run", "task_run"):
            assert database.execute(f"SELECT state_type FROM {table}").fetchall() == [("COMPLETED",)]
