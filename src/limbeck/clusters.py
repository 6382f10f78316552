"""A search's trials on the machines of a Ray cluster, a trial a worker, many at a time."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from limbeck.errors import LimbeckError
from limbeck.ray_workers import RayWorkers
from limbeck.session import Session
from limbeck.trials import Ended

LOCAL, AUTO = "local", "auto"
CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where trials run, and what each has there.

    Args:
        address: of a Ray cluster, as host:port; `auto`: the cluster that this machine is part of; `local`: one of this
            machine alone, started and ended with the search.
        cpus: processors of a trial.
        gpus: GPUs of a trial, at most 1; several trials share one under 1. None: 1 where a machine has one, else 0.

    Raises:
        LimbeckError: processors that no trial can have.
    """

    address: str
    cpus: float = 1.0
    gpus: float | None = None

    def __post_init__(self) -> None:
        if not self.cpus > 0:
            raise LimbeckError(f"a trial needs a processor: expected cpus above 0, got {self.cpus:g}")
        if self.gpus is not None and not 0 <= self.gpus <= 1:
            raise LimbeckError(f"a trial trains on one GPU or a part of it: expected gpus 0 to 1, got {self.gpus:g}")


@contextmanager
def connected(cluster: Cluster) -> Iterator[Machines]:
    """The machines of a cluster, of which this process becomes a part. Where it is part of one already, it stays so.

    Raises:
        LimbeckError: Ray is not installed; nothing answers at the address; no machine has what a trial needs.
    """
    ray = ray_package()
    joins = not ray.is_initialized()
    if joins:
        _join(ray, cluster.address)
    try:
        yield Machines(ray, cluster)
    finally:
        if joins:
            ray.shutdown()


class Machines:
    """The machines of a cluster, as they are when a search begins."""

    def __init__(self, ray: Any, cluster: Cluster) -> None:
        self._ray = ray
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = cluster.gpus
        if gpus is None:
            gpus = 1.0 if any(machine.get("GPU", 0) >= 1 for machine in machines) else 0.0
        self._each = {"num_cpus": cluster.cpus, "num_gpus": gpus}
        self.places = sum(
            int(min(machine.get("CPU", 0) // cluster.cpus, machine.get("GPU", 0) // gpus if gpus else float("inf")))
            for machine in machines
        )
        self.each = f"{cluster.cpus:g} CPU and {gpus:g} GPU"
        if not self.places:
            there = "; ".join(f"{each.get('CPU', 0):g} CPU and {each.get('GPU', 0):g} GPU" for each in machines)
            raise LimbeckError(f"no machine of the cluster has the {self.each} of a trial; there are: {there}")

    @contextmanager
    def workers(self, session: Session, most: int | None, ended: Callable[[Ended], None]) -> Iterator[RayWorkers]:
        """As many workers as there are places, or `most`; they end with the block."""
        count = self.places if most is None else min(self.places, most)
        session.say(f"Ray: up to {count} trials at a time, each with {self.each}")
        workers = RayWorkers(self._ray, self._each, count, session, ended)
        try:
            yield workers
        finally:
            workers.dismiss()


def ray_package() -> Any:
    """The ray package.

    Raises:
        LimbeckError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise LimbeckError('--ray needs Ray; install it with: pip install "limbeck[ray]"') from None
    return ray


def _join(ray: Any, address: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address=LOCAL, include_dashboard=False, **quiet)
        return
    try:
        if address != AUTO:
            # Ray itself tries for minutes, and then ends the process.
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise LimbeckError(
            f"no Ray cluster at {address!r} ({error}); expected host:port of one that runs, auto on a machine that is "
            "part of one (ray start), or local; one that asks for a token needs RAY_AUTH_MODE=token in the environment"
        ) from None
