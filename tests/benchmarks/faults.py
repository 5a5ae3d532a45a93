"""What faults cost: real processes are killed, stopped and starved in the middle of sweeps.

Each run sends one sweep of 64 cells (32 batches, about 6 s of work) to two Dask workers of four threads, strikes at a
random moment, waits for the run to complete or to stop, mends the fault and runs the same command again until the
sweep is complete. All the time a reader opens the store with plain `xarray.open_zarr`. Moments are drawn evenly over
the run, its start-up included; `--seed` repeats them. All is on loopback and in a temporary folder; the full disk is
a tmpfs and the read-only store a bind mount, so these two need root; the clock needs Debian's libfaketime.

Read: "at once" and "rerun" (runs that completed in spite of the fault, or stopped with one clear line and completed
when run again; a flow that is itself killed says nothing) add up to "runs", or there are "problems", listed above the
line. "lost", "wrong" and "twice" (cells that were done before the fault and computed again, or listed twice) are to
be 0; "again" is the mean number of unfinished cells computed more than once, at most the batches that were out. "polls"
are the reader's, "failed" those that raised, warned or went back. "to end" is the median time in seconds from the
fault to the end of the run, "seconds" that of all.

    python tests/benchmarks/faults.py [--runs 20] [--seed 0] [SCENARIO ...]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from time import monotonic, sleep, time_ns

import numpy as np
import psutil

from tests.benchmarks.fault_site import (
    COMPLETE,
    POISON,
    STARTUP,
    STOPPED,
    WORKERS,
    Run,
    Setting,
    Site,
    command_line,
    wait_until,
)
from tests.storage.servers import BUCKET, KEY, SECRET, weed

FAKETIME = Path("/usr/lib") / f"{os.uname().machine}-linux-gnu" / "faketime" / "libfaketimeMT.so.1"
SLEEP = """
import select
import time

# libfaketime 0.9.10 refuses the monotonic deadlines that time.sleep waits for
time.sleep = lambda seconds: select.select([], [], [], seconds) and None
"""


@dataclass(frozen=True)
class Scenario:
    """A fault: what strikes a run, how it is mended, and the setting it is seen in.

    Attributes
    ----------
    strike, mend : callable
        Of a run.
    setting : Setting
    kills_flow : bool
    earliest : float
        First moment of the strike.
    """

    strike: Callable[[Run], object]
    mend: Callable[[Run], object] = lambda run: None
    setting: Setting = Setting()  # noqa: RUF009 (it is frozen)
    kills_flow: bool = False
    earliest: float = STARTUP


def _signal_workers(run, number):
    """Signal a worker process: of the site, or of the run's own cluster."""
    if run.setting.cluster:
        workers = run.children("spawn_main")
    else:
        nannies = [run.site.services[f"worker-{i}"].process.pid for i in range(WORKERS)]
        workers = [child for pid in nannies for child in psutil.Process(pid).children()]
        workers = [worker for worker in workers if "spawn_main" in " ".join(command_line(worker))]
    if workers:
        worker = run.random.choice(sorted(workers, key=lambda worker: worker.pid))
        worker.send_signal(number)
        return worker
    return None


def kill_worker(run):
    _signal_workers(run, signal.SIGKILL)


def kill_nanny(run):
    run.site.services[f"worker-{run.random.randrange(WORKERS)}"].process.kill()


def kill_flow(run):
    run.process.kill()
    run.process.wait()  # so that the next fault does not strike a process that is going


def kill_embedded(run):
    for server in run.children("flows.server"):
        with suppress(psutil.NoSuchProcess):
            server.kill()


def kill_service(name):
    return lambda run: run.site.services[name].kill()


def stop(process):
    """SIGSTOP, and SIGCONT a while later."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        process.send_signal(signal.SIGSTOP)
        sleep(stop.seconds)
        process.send_signal(signal.SIGCONT)


stop.seconds = 30.0


def stop_worker(run):
    worker = _signal_workers(run, signal.SIGSTOP)
    if worker:
        stop(worker)


def mount_disk(run):
    """A disk of 8 MB for the store."""
    run.store.parent.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", run.store.parent], check=True)


def fill_disk(run):
    with suppress(OSError), (run.store.parent / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


def empty_disk(run):
    (run.store.parent / "ballast").unlink(missing_ok=True)


def unmount(run):
    subprocess.run(["umount", run.store.parent], check=True)


def make_read_only(run):
    """Mount the store over itself: root may write wherever it is not a mount that forbids it."""
    subprocess.run(["mount", "--bind", run.store, run.store], check=True)
    remount = ["mount", "-o", "remount,bind,ro", run.store]  # refused while a file is open for writing
    wait_until(lambda: subprocess.run(remount, stderr=subprocess.DEVNULL).returncode == 0, 60, "a read-only mount")


def make_writable(run):
    if subprocess.run(["mountpoint", "--quiet", run.store]).returncode == 0:
        subprocess.run(["umount", "--lazy", run.store], check=True)  # the reader may have a file open


def fake_clock(run):
    """All processes of the run read the clock through libfaketime, which follows a file; monotonic time is real."""
    offset, folder = run.site.folder / "clock", run.site.folder / "faked"
    offset.write_text("+0")
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SLEEP)
    run.environment |= {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # it makes waits with a deadline spin
        "PYTHONPATH": f"{folder}:{run.environment['PYTHONPATH']}",
    }


def jump(offset):
    return lambda run: (run.site.folder / "clock").write_text(offset)


def start_object_store(run):
    """An S3 server of the run's own."""
    stack = ExitStack()
    folder = run.site.folder / f"s3-{time_ns()}"
    folder.mkdir()
    run.object_store, run.close = stack.enter_context(weed(folder)), stack.close
    run.environment |= run.object_store.environment
    run.reader.options = {
        "key": KEY,
        "secret": SECRET,
        "client_kwargs": {"endpoint_url": run.object_store.endpoint, "region_name": "us-east-1"},
    }


def restart_object_store(run):
    """SIGKILL, and the same again a few seconds later; it takes a while until it answers."""
    run.reader.excused.set()
    run.object_store.kill()
    sleep(run.random.uniform(0, 3))
    run.object_store.start()
    run.reader.excused.clear()


OBJECTS = Setting(
    place=lambda site, name: f"s3://{BUCKET}/{name}", prepare=start_object_store, clear=lambda run: run.close()
)
OWN_WORKERS = Setting(cluster="local:2")
DISK = Setting(place=lambda site, name: site.folder / f"disk-{name}" / name, prepare=mount_disk, clear=unmount)
SCENARIOS = {
    "worker killed": Scenario(kill_worker),
    "worker killed, own cluster": Scenario(kill_worker, setting=OWN_WORKERS),
    "nanny killed": Scenario(kill_nanny),
    "scheduler killed": Scenario(kill_service("scheduler")),
    "flow killed": Scenario(kill_flow, kills_flow=True),
    "flow killed, own cluster": Scenario(kill_flow, setting=OWN_WORKERS, kills_flow=True),
    "Prefect server killed": Scenario(kill_service("prefect")),
    "Prefect server killed, own": Scenario(kill_embedded, setting=Setting(embedded=True)),
    "flow terminated": Scenario(lambda run: run.process.terminate()),
    "worker stopped a while": Scenario(stop_worker),
    "flow stopped a while": Scenario(lambda run: stop(run.process)),
    "disk full": Scenario(fill_disk, empty_disk, DISK),
    "store read-only": Scenario(make_read_only, make_writable, Setting(clear=make_writable), earliest=0.0),
    "object store restarted": Scenario(restart_object_store, setting=OBJECTS),
    "clock an hour forwards": Scenario(jump("+3600"), setting=Setting(cluster="local:2", prepare=fake_clock)),
    "clock an hour back": Scenario(jump("-3600"), setting=Setting(cluster="local:2", prepare=fake_clock)),
}
POISONED = "poisonous cell among 200"
NAMES = (*SCENARIOS, POISONED)


@dataclass
class Report:
    """What became of one run."""

    verdict: str = ""
    to_end: float = 0.0
    seconds: float = 0.0
    lost: int = 0
    wrong: int = 0
    twice: int = 0
    again: int = 0
    polls: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class Strike:
    """What there was when a fault struck."""

    name: str
    at: float
    done: np.ndarray
    calls: int
    family: list[psutil.Process]


def suffer(site, faults, setting, seed):
    """Run the sweep through faults, one after the other, until it is complete.

    Parameters
    ----------
    site : Site
    faults : list of tuple of str and float
        Scenarios and their moments, in order.
    setting : Setting
    seed : int

    Returns
    -------
    Report
        Its verdict and the time to the end are those of the first fault.
    """
    report = Report()
    site.restore()
    run = Run(site, f"{'-'.join(faults[0][0].replace(',', '').split())}-{seed}.zarr", setting, seed, whole=site.whole)
    with ExitStack() as stack:
        setting.prepare(run)
        stack.callback(setting.clear, run)
        earlier = len(site.calls())
        run.start()
        stack.callback(run.kill)
        began = run.started
        run.reader.start()
        stack.callback(run.reader.end)
        strikes = []
        for name, moment in faults:
            run.wait_for(moment)
            if strikes and run.process.poll() is not None:
                _mend(run, strikes, report)
                run.wait_for(moment)
            strikes.append(Strike(name, monotonic(), run.reader.done_now(), len(site.calls()), run.children("")))
            SCENARIOS[name].strike(run)
        verdict = _mend(run, strikes, report)
        if verdict != COMPLETE and (rerun := run.verdict()) != COMPLETE:
            report.problems.append(f"run again: {rerun}: {run.errors()[-1:]}")
        report.seconds = monotonic() - began
        done = run.reader.done_now()
        calls = site.calls()
    report.lost = site.cells - int(done.sum())
    report.wrong, report.polls, report.failed = run.reader.mistaken, run.reader.polls, len(run.reader.troubles)
    for each in strikes:
        finished = {(int(m), int(seed)) for m, seed in np.argwhere(each.done.reshape(-1, 2))}
        report.twice += sum(cell in finished for cell in calls[each.calls :])
    report.again = len(calls) - earlier - len(set(calls[earlier:])) - report.twice
    report.problems += list(dict.fromkeys(run.reader.troubles))[:5]
    report.problems += [
        f"{getattr(report, what)} {what}" for what in ("lost", "wrong", "twice") if getattr(report, what)
    ]
    return report


def _mend(run, strikes, report):
    """Wait for the end of a command that was struck, mend the fault and, unless it is complete, start it again."""
    scenario = SCENARIOS[strikes[-1].name]
    verdict = run.verdict(killed=scenario.kills_flow)
    if not report.verdict:
        report.verdict, report.to_end = verdict, monotonic() - strikes[0].at
    if verdict not in (COMPLETE, STOPPED):
        report.problems.append(f"{strikes[-1].name}: {verdict}")
    _, left = psutil.wait_procs(strikes[-1].family, timeout=30)
    report.problems += [f"{strikes[-1].name}: left behind: {' '.join(command_line(process))}" for process in left]
    for name in dict.fromkeys(strike.name for strike in strikes):
        SCENARIOS[name].mend(run)
    run.site.restore()
    if verdict != COMPLETE:
        run.start()
    return verdict


def poison(site):
    """A cell that kills its worker among 200, on workers of the run's own; returns a report."""
    report = Report()
    run = Run(site, "poison.zarr", OWN_WORKERS, spec=site.write_spec("poison", "poisonous", 200, 1))
    with ExitStack() as stack:
        run.start()
        stack.callback(run.kill)
        run.reader.start()
        stack.callback(run.reader.end)
        ended = run.wait()
        report.seconds = report.to_end = monotonic() - run.started
        done, lines = run.reader.done_now(), run.errors()
    named = [line for line in lines if line.startswith("failed: ") and f"m={POISON}," in line]
    report.lost, report.polls, report.failed = 199 - int(done.sum()), run.reader.polls, len(run.reader.troubles)
    report.verdict = STOPPED if ended and run.process.returncode == 1 and len(named) == 1 else str(lines[-3:])
    report.problems = [*run.reader.troubles[:5], *([] if report.verdict == STOPPED else [report.verdict])]
    report.problems += [f"{report.lost} lost"] if report.lost else []
    return report


COLUMNS = ("runs", "at once", "rerun", "problems", "lost", "wrong", "twice", "again", "polls", "failed", "to end", "s")


def print_row(name, reports):
    """Print one line of the table."""
    verdicts = Counter(report.verdict for report in reports)
    sums = [sum(getattr(report, what) for report in reports) for what in ("lost", "wrong", "twice")]
    values = [len(reports), verdicts[COMPLETE], verdicts[STOPPED], sum(bool(report.problems) for report in reports)]
    values += [*sums, f"{mean(report.again for report in reports):.1f}"]
    values += [sum(report.polls for report in reports), sum(report.failed for report in reports)]
    values += [f"{median(getattr(report, what) for report in reports):.1f}" for what in ("to_end", "seconds")]
    print(f"{name:<30}" + "".join(f"{value:>9}" for value in values), flush=True)


def moments(scenario, runs, chance):
    """A random moment in each of as many equal parts of a run."""
    for part in range(runs):
        share = (part + chance.random()) / runs
        yield scenario.earliest + share * (1 - scenario.earliest)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--runs", type=int, default=20, help="of each scenario")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--stop", type=float, default=30.0, help="seconds that a stopped process stands still")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(NAMES):
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(NAMES)}")
    stop.seconds = arguments.stop
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the servers as well
    sound = True
    with tempfile.TemporaryDirectory() as folder, Site(Path(folder)) as site:
        print(
            f"undisturbed: {site.seconds:.1f} s, {site.startup:.1f} s to the first cell; load {os.getloadavg()[0]:.1f}"
        )
        print(f"{'':<30}" + "".join(f"{column:>9}" for column in COLUMNS), flush=True)
        for name in arguments.scenarios or NAMES:
            reports = []
            if name == POISONED:
                reports = [poison(site)]
            else:
                chance = random.Random(f"{name} {arguments.seed}")
                for number, moment in enumerate(moments(SCENARIOS[name], arguments.runs, chance)):
                    seed = arguments.seed * arguments.runs + number
                    reports.append(suffer(site, [(name, moment)], SCENARIOS[name].setting, seed))
                    for problem in reports[-1].problems:
                        print(f"! {name}, moment {moment:.3f}: {problem}", flush=True)
            sound = sound and not any(report.problems for report in reports)
            print_row(name, reports)
    raise SystemExit(not sound)


if __name__ == "__main__":
    main()
