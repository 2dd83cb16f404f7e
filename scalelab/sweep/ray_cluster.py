"""Connection to a Ray cluster, and the slots for runs that it has.

Ray is an optional dependency: it is imported only when a sweep uses the Ray executor.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from scalelab.errors import ScalelabError, UsageError, first_line
from scalelab.sweep.stopping import (
    caught_signal,
    interruption_error,
    restore_sigterm,
    sigterm_as_interrupt,
)
from scalelab.sweep.workers import environment
from scalelab.train.devices import usable_cores

_CONNECT_S = 5.0
_LONGEST_PARENT = 24  # characters

# For a new cluster: reachable from this machine only, with its own token, and without usage reports.
_OWN_CLUSTER = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # binds Ray to 127.0.0.1, on Linux too
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # otherwise Ray warns about its future default
}

# Less than a minute of retries, not a quarter of an hour, if something else than a cluster answers at the address.
_FEW_RETRIES = {"RAY_gcs_server_port_wait_time_s": "1"}


@contextmanager
def connected(address: str | None = None, workers: int | None = None) -> Iterator[None]:
    """Connect to the Ray cluster at `address`: HOST:PORT, or auto for the one of this machine.

    Without an address a cluster is started on this machine, for `workers` runs or one per core, and stopped at the end.
    An existing connection is used and kept.

    Raises:
        ScalelabError: Ray is not installed, or no cluster answers.
        UsageError: `address` is not an address.
    """
    if address is not None and address != "auto":
        _check_reachable(address)
    with environment(_FEW_RETRIES if address else _OWN_CLUSTER | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
        ray = import_ray()
        if ray.is_initialized():
            yield
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        with ExitStack() as stack:
            if address is None:
                folder = stack.enter_context(_private_folder())
                options |= {"num_cpus": workers or usable_cores(), "include_dashboard": False, "_temp_dir": folder}
            stack.enter_context(restore_sigterm())  # Ray sets a handler and leaves it there after its shutdown
            try:
                ray.init(address or "local", **options)  # None would mean RAY_ADDRESS or a cluster that runs here
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                reason = first_line(error)
                what = "`executor='ray'`" if address is None else f"`address={address}`"
                hint = "" if address is None else "; this machine must be a node of that cluster (ray start joins it)"
                raise ScalelabError(f"{what}: no connection to a Ray cluster ({reason}){hint}") from None
            # Ray's handler prints a stack, aborts and leaves its processes behind.
            with sigterm_as_interrupt(override=True):
                try:
                    yield
                except KeyboardInterrupt as stop:  # before the first run, or outside of `run_sweep`
                    if caught_signal(stop) == signal.SIGINT:
                        raise
                    raise interruption_error(stop, "; run the same command again to resume") from None
                finally:
                    ray.shutdown()


@contextmanager
def _private_folder() -> Iterator[str]:
    """Make a temporary folder that only this user can read, for the sockets and logs of an own cluster.

    Its path is short, because sockets allow about 100 characters.
    """
    parent = tempfile.gettempdir()
    if len(parent) > _LONGEST_PARENT and os.access("/tmp", os.W_OK):  # nosec B108  # mkdtemp makes a private folder
        parent = "/tmp"  # nosec B108
    private = tempfile.mkdtemp(prefix="scalelab-ray-", dir=parent)
    folder = Path(private) / "r"  # not the private one, since Ray opens its folder to all users
    (folder / "ray").mkdir(parents=True)  # where Ray writes the address of its latest cluster
    try:
        with environment({"RAY_TMPDIR": str(folder)}):
            yield str(folder)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def cluster_slots(
    address: str | None = None, device: str = "auto", workers: int | None = None, per_gpu: int = 1
) -> list[str]:
    """Return the slots of the connected cluster: cpu or cuda:0, once for each run that fits at once.

    Raises:
        ScalelabError: the cluster has no slot for `device`.
        UsageError: `per_gpu` is less than 1.
    """
    if per_gpu < 1:
        raise UsageError("`per_gpu`: with `executor='ray'` give the number of runs per GPU")
    gpus = cluster_resource("GPU") if device in ("auto", "cuda") else 0.0
    cpus = cluster_resource("CPU")
    kind, count = ("cuda:0", math.floor(gpus) * per_gpu) if gpus >= 1 else ("cpu", math.floor(cpus))
    where = "" if address is None else f" at {address}"
    if device == "cuda" and kind == "cpu":
        raise ScalelabError(f"`device='cuda'`: the Ray cluster{where} has no GPU; use `device='cpu'`")
    if not count:
        raise ScalelabError(f"`executor='ray'`: the Ray cluster{where} has neither a CPU nor a GPU for runs")
    return [kind] * min(count, workers or count)


def cluster_resource(resource: str) -> float:
    """Return how much of `resource` the cluster has, in use or free."""
    return import_ray().cluster_resources().get(resource, 0.0)


def import_ray() -> Any:
    """Import Ray. Raises `ScalelabError` if it is not installed."""
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ScalelabError(f"`executor='ray'` needs Ray ({error}): pip install 'scalelab[ray]'") from None
    return ray


def _check_reachable(address: str) -> None:
    """Raise early if nothing answers at `address`; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UsageError(
            f"`address={address}`: give HOST:PORT or auto, and start the sweep on a machine of that cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ScalelabError(
            f"`address={address}`: no Ray cluster answers there ({reason}); start one with ray start"
        ) from None
