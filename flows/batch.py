"""What a worker does: one Prefect task a batch of cases."""

import json
import logging
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

from distributed import Client, get_worker
from distributed.worker import thread_state
from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled
from prefect.task_engine import run_task_sync
from prefect_dask.task_runners import PrefectDaskFuture
from threadpoolctl import threadpool_limits

from flows.planning import BATCH_SECONDS
from pipeline.experiment import Case, Outcome
from pipeline.experiments import EXPERIMENTS


@dataclass(frozen=True)
class Computed:
    """What became of a batch.

    Attributes
    ----------
    outcomes : list of Outcome
        Of the first cases; the dispatcher sends the others again.
    worker : str
        Address of the worker; empty outside of Dask.
    seconds : float
        Computing time.
    """

    outcomes: list[Outcome]
    worker: str
    seconds: float


@task(name="batch", task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False)
def compute_batch(label: str, payload: str) -> "Computed | State[None]":
    """Compute the cases of a batch on one core, as many as can be done in the time of a batch but at least one.

    Parameters
    ----------
    label : str
        Name of the task run.
    payload : str
        The batch as JSON: experiment, settings, axes, and a list of labels a case.

    Returns
    -------
    Computed or State
        A cancelled state, after the case at hand, where the flow has given the batch up.
    """
    logging.raiseExceptions = False  # a Prefect server that is away is told of by the flow, not by every worker
    batch = json.loads(payload)
    experiment = EXPERIMENTS[batch["experiment"]]
    settings = experiment.settings.model_validate(batch["settings"])
    cases = [Case(tuple(zip(batch["axes"], labels, strict=True))) for labels in batch["cases"]]
    outcomes = []
    started = monotonic()
    with threadpool_limits(1):
        for outcome in experiment.run(cases, settings):
            outcomes.append(outcome)
            if _given_up():
                return Cancelled(message="the flow was stopped")
            if monotonic() > started + BATCH_SECONDS:
                break
    return Computed(outcomes, _worker_address(), monotonic() - started)


def submit_batch(
    client: Client, context: dict[str, Any], label: str, payload: str
) -> PrefectDaskFuture["Computed | State[None]"]:
    """Send a batch to the workers, as `DaskTaskRunner.submit` does.

    That serialises the flow run's context and all of Prefect's settings anew, and has Dask hash the whole task: 48 ms a
    batch against 2 ms (measured).

    Parameters
    ----------
    client : distributed.Client
    context : dict
        Of the flow run, from `prefect.context.serialize_context`.
    label, payload : str
        As `compute_batch` takes them.
    """
    run = uuid4()
    parameters = {"label": label, "payload": payload}
    future = Client.submit(client, _run_batch, context, run, parameters, key=f"batch-{run}", pure=False)
    return PrefectDaskFuture(wrapped_future=future, task_run_id=run)


def _run_batch(context: dict[str, Any], run: UUID, parameters: dict[str, str]) -> Any:
    """Run the task on a worker, within the flow run."""
    return run_task_sync(
        compute_batch,
        task_run_id=run,
        parameters=parameters,
        dependencies={},
        return_type="state",
        context=context,
    )


def _worker_address() -> str:
    try:
        return str(get_worker().address)
    except ValueError:
        return ""


def _given_up() -> bool:
    """Whether nobody waits any more for the batch of this worker thread."""
    try:
        task = get_worker().state.tasks.get(thread_state.key)
    except (ValueError, AttributeError):  # not on a worker
        return False
    return task is None or task.state == "cancelled"
