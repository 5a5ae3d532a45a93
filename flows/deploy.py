"""The sweep flow as a deployment: a Prefect worker of a process work pool runs it, from the UI, the API or a schedule.

The code is the installed package, which the worker's machine must have; nothing is fetched.
"""

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast, get_type_hints
from uuid import UUID

import httpx
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.schedules import Cron, Interval, Schedule
from prefect.types.entrypoint import EntrypointType
from pydantic import TypeAdapter, ValidationError

from flows.environment import CLIENT_SETTINGS
from flows.server import configured_server
from flows.sweep import sweep_flow
from pipeline.errors import EpsweepError, InputError, shown
from pipeline.experiment import describe
from pipeline.experiments import ALLOW_CODE

_POOL_TYPE = "process"
_CRASHED = "epsweep: a sweep that stopped sending heartbeats has crashed"
_SILENCE = timedelta(seconds=90)  # three heartbeats
_INTERVALS = (60, 365 * 86400)  # seconds: the shortest and the longest
_CRON_FIELDS = 5
_NAME = re.compile(r"[\w][\w. -]{0,99}")


def deploy(
    name: str,
    *,
    work_pool: str,
    parameters: dict[str, Any],
    cron: Sequence[str] = (),
    interval: Sequence[int] = (),
    folder: Path,
    allow_code: bool = False,
) -> UUID:
    """Register the sweep flow on the configured server, or change what is registered under that name.

    Parameters
    ----------
    name : str
        Of the deployment; the flow is ``sweep``.
    work_pool : str
        A pool of the type ``process``; made if there is none of the name.
    parameters : dict
        Defaults of `flows.sweep.sweep_flow`'s parameters; those that are not given are asked for at each run.
    cron : sequence of str
        Schedules such as ``0 3 * * *``, in UTC.
    interval : sequence of int
        Schedules in seconds.
    folder : Path
        Working directory of the runs on the worker's machine: relative paths start there.
    allow_code : bool
        Whether specs may name a user's own functions. It is said here, or in the worker's environment; no parameter
        of a run changes it.

    Returns
    -------
    UUID
        Of the deployment.

    Raises
    ------
    InputError
        If there is no server, or a value will not do.
    """
    url = configured_server()
    if url is None:
        raise InputError("Prefect: a deployment needs a server that stays; set PREFECT_API_URL")
    for field, value in (("name", name), ("work-pool", work_pool)):
        if not _NAME.fullmatch(value):
            raise InputError(f"{field}: {shown(value)} will not do; use letters, digits, '-', '_' and '.'")
    schedules = _schedules(cron, interval)
    missing = [key for key in ("spec", "store") if key not in parameters]
    if schedules and missing:
        raise InputError(f"{missing[0]}: a scheduled run has nobody to ask; give --{missing[0]}")
    environment = CLIENT_SETTINGS | {"PYTHONSAFEPATH": "1"} | ({ALLOW_CODE: "1"} if allow_code else {})
    try:
        _check_parameters(parameters)
        _require_pool(work_pool)
        _require_crash_automation()
        deployment = RunnerDeployment.from_flow(
            sweep_flow,
            name,
            schedules=schedules,
            parameters=parameters,
            work_pool_name=work_pool,
            job_variables={"env": environment, "working_dir": str(folder.resolve())},
            entrypoint_type=EntrypointType.MODULE_PATH,
            enforce_parameter_schema=True,
        )
        return cast("UUID", deployment.apply())
    except (httpx.HTTPError, DeploymentApplyError, ObjectAlreadyExists) as error:
        raise EpsweepError(f"Prefect: the server refuses the deployment ({describe(error)}); check its log") from error


def _check_parameters(parameters: dict[str, Any]) -> None:
    kinds = get_type_hints(sweep_flow.fn, include_extras=True)
    for key, value in parameters.items():
        try:
            TypeAdapter(kinds[key]).validate_python(value)
        except ValidationError as error:
            raise InputError(f"{key}: {shown(value)} will not do: {error.errors()[0]['msg']}") from error


def _schedules(cron: Sequence[str], interval: Sequence[int]) -> list[Schedule]:
    for seconds in interval:
        if not _INTERVALS[0] <= seconds <= _INTERVALS[1]:
            raise InputError(f"interval: {shown(seconds)} s will not do; give {_INTERVALS[0]} to {_INTERVALS[1]}")
    schedules = [Interval(timedelta(seconds=each), slug=f"interval-{i}") for i, each in enumerate(interval)]
    for number, text in enumerate(cron):
        problem = f"cron: {shown(text)} will not do; write five fields, such as '0 3 * * *'"
        if len(text.split()) != _CRON_FIELDS and not text.startswith("@"):  # Prefect takes a sixth, for seconds
            raise InputError(problem)
        try:
            schedules.append(Cron(text, timezone="UTC", slug=f"cron-{number}"))
        except ValueError as error:
            raise InputError(problem) from error
    return schedules


def _require_pool(name: str) -> None:
    with get_client(sync_client=True) as client:
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            pool = client.create_work_pool(WorkPoolCreate(name=name, type=_POOL_TYPE))
    if pool.type != _POOL_TYPE:
        raise InputError(
            f"work-pool: {name} is of the type {pool.type}; use one of the type {_POOL_TYPE}, or a new name"
        )


def _require_crash_automation() -> None:
    """Have the server mark sweeps as crashed that fall silent, such as a killed `epsweep run`."""
    with get_client(sync_client=True) as client:
        if client.read_automations_by_name(_CRASHED):
            return
    heartbeat = "prefect.flow-run.heartbeat"
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    Automation(
        name=_CRASHED,
        trigger=EventTrigger(
            after={heartbeat},
            expect={heartbeat, *ends},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": sweep_flow.name},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=_SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no heartbeat for {_SILENCE.total_seconds():.0f} s; finished cells are stored: run the same "
                "again to go on",
            )
        ],
    ).create()
