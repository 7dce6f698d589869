"""Where a run's searches and trainings are done: here one by one, side by side in processes, or on a Ray cluster.

An engine only hands tasks out. What is done is seen by a task's files, which lie where every node finds them; so a task
that is lost with a node, or with this program, is handed out again and goes on from its last epoch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TypeVar

from latencykit.errors import LatencyKitError, UsageError

T = TypeVar("T")
R = TypeVar("R")
NEW_RAY = "local"
"""Instead of an address: a Ray of this machine's own, for the time of the run."""
HANDED_OUT = 20
"""So many nodes may be lost under a task."""


def outcomes(
    tasks: Sequence[T], do: Callable[[T], R], jobs: int, cluster: str | None = None, cpus: int = 1
) -> Iterator[R]:
    """Do all tasks; what comes of each, as they end.

    Args:
        tasks: independent of each other, to be pickled.
        do: a function of a module, which sees by files what is done already.
        jobs: tasks side by side in processes of this machine; 1 does them in this process.
        cluster: address of a Ray cluster (`auto`, `host:port`), or `local`; then the cluster's processors decide how
            many tasks run side by side.
        cpus: that a task takes of the cluster.

    Raises:
        UsageError: Ray is not installed or not there.
        LatencyKitError: whatever a task raises.
    """
    if cluster is not None:
        yield from _on_ray(tasks, do, cluster, cpus)
    elif jobs == 1:
        yield from map(do, tasks)
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_end_with_parent) as pool:
            try:
                for future in as_completed([pool.submit(do, task) for task in tasks]):
                    yield future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _end_with_parent() -> None:
    """See to it that this process ends when its parent is killed; what it has done is in files, whole or not at all."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_ray(tasks: Sequence[T], do: Callable[[T], R], cluster: str, cpus: int) -> Iterator[R]:
    try:
        import ray
    except ImportError as error:
        raise UsageError("--cluster needs Ray: pip install 'latencykit[cluster]'") from error
    try:
        ray.init(None if cluster == NEW_RAY else cluster, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"--cluster {cluster}: no Ray answers there ({error}); start one: ray start --head") from error
    try:
        remote = ray.remote(num_cpus=cpus, max_retries=HANDED_OUT)(do)
        pending = [remote.remote(task) for task in tasks]
        while pending:
            done, pending = ray.wait(pending)
            yield from ray.get(done)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, LatencyKitError) else error) from error
    finally:
        ray.shutdown()
