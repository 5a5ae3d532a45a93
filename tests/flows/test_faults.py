"""Faults in the middle of a sweep cost nothing that was finished, and running the same command again completes it.

The scenarios of tests/benchmarks/faults.py, one after the other on the same store; that script strikes at many moments.
"""

import warnings

import pytest

from tests.benchmarks.fault_site import Setting, Site
from tests.benchmarks.faults import DISK, OBJECTS, fake_clock, poison, stop, suffer


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    stop.seconds = 2.0
    with warnings.catch_warnings(), Site(tmp_path_factory.mktemp("site")) as site:
        yield site


def test_faults_of_cluster_server_and_disk_cost_no_finished_cell(site):
    names = [
        "worker killed",
        "worker stopped a while",
        "nanny killed",
        "flow stopped a while",
        "flow terminated",
        "scheduler killed",
        "disk full",
        "flow killed",
        "store read-only",
        "Prefect server killed",
    ]
    faults = [(name, 0.9 * number / len(names)) for number, name in enumerate(names)]
    report = suffer(site, faults, DISK, 1)
    # how many stored cells are computed again depends on the moments, which load shifts: the script counts them
    assert [each for each in report.problems if not each.endswith(" twice")] == []


def test_faults_of_own_cluster_server_and_clock_cost_no_finished_cell(site):
    names = ["clock an hour forwards", "worker killed, own cluster", "clock an hour back", "Prefect server killed, own"]
    faults = [(name, 0.9 * number / len(names)) for number, name in enumerate(names)]
    setting = Setting(cluster="local:4", embedded=True, prepare=fake_clock)
    assert suffer(site, faults, setting, 2).problems == []


def test_restart_of_the_object_store_costs_no_finished_cell(site):
    assert suffer(site, [("object store restarted", 0.4)], OBJECTS, 3).problems == []


def test_poisonous_cell_costs_only_itself(site):
    assert poison(site).problems == []
