"""Ray itself: connecting to a cluster, or starting one on this machine that nobody else can reach."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

from gala.cluster.reachable import check_reachable
from gala.config.extras import install

MAIL = "mail"
"""Concurrency group with one thread, for the calls that must not wait for the learner's loop."""
_START_ATTEMPTS = 3
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}


def connect(address: str, cores: int) -> bool:
    """Connect this process to Ray. True if Ray was started for it, and should end with it.

    Args:
        address: ``local`` starts Ray here, with ``cores``; ``auto`` connects to the cluster that ``RAY_ADDRESS`` names,
            or of this machine, and starts Ray here if there is none; anything else is the host:port of a cluster.

    Raises:
        ValueError: Ray is not installed, or no cluster answers at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise ValueError(f"cluster.address needs Ray: {install('cluster')}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return False
    if address == "auto":
        address = _cluster_here() or "local"
    elif address != "local":
        check_reachable(address)
    if address == "local":
        _start(cores)
        return True
    import ray

    hush()
    try:
        ray.init(address=address, **_QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"cannot connect to a Ray cluster at {address}: {reason}") from None
    return False


def check_gpus() -> None:
    """Raises ValueError if no node of the cluster, to which this process is connected, has a GPU for learners."""
    import ray

    if not ray.cluster_resources().get("GPU", 0):
        raise ValueError(
            "device=cuda, but no node of the Ray cluster has a GPU for learners; use device=auto or device=cpu, or "
            "start its nodes with --num-gpus"
        )


def hush() -> None:
    """Keep out of the output what Ray tells of its own processes, coloured and with pieces of their logs: what follows
    from it for the run, the run says in a line. ``log_to_driver`` does not govern these."""
    from ray._private import worker

    worker._worker_logs_enabled = False


def keep_to_loopback() -> None:
    """From here on, Ray that this process starts listens on 127.0.0.1 only, and talks to those who know its token.
    Ray reads these at its import: call it before."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's name for "this machine only", whatever the system
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def actor(cls: type) -> Any:
    """``cls`` as a Ray actor whose methods ``deliver`` and ``acknowledge`` have a thread of their own."""
    import ray

    for name in ("deliver", "acknowledge"):
        setattr(cls, name, ray.method(concurrency_group=MAIL)(getattr(cls, name)))
    remote: Any = ray.remote
    return remote(concurrency_groups={MAIL: 1})(cls)


def _start(cores: int) -> None:
    keep_to_loopback()
    import ray

    hush()
    for attempt in range(1, _START_ATTEMPTS + 1):  # Ray gives up after 30 s, which a busy machine may need
        try:
            ray.init(address="local", num_cpus=cores, include_dashboard=False, _node_ip_address="127.0.0.1", **_QUIET)
            return
        except Exception as error:  # Ray raises bare exceptions here
            ray.shutdown()
            if attempt == _START_ATTEMPTS:
                raise ValueError(f"Ray did not start on this machine: {str(error).splitlines()[0]}") from error


def _cluster_here() -> str:
    """HOST:PORT of the cluster that ``auto`` means; empty if there is none. Ray's own search asks all processes of the
    machine, and waits for a minute on the address that a cluster has left behind which is there no longer.

    Raises:
        ValueError: ``RAY_ADDRESS`` names a cluster that does not answer.
    """
    stated = os.environ.get("RAY_ADDRESS", "")
    if re.fullmatch(r"[^/:]+:\d+", stated):
        check_reachable(stated, "RAY_ADDRESS")
        return stated
    noted = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    try:
        address = noted.read_text().strip()
        check_reachable(address)
        return address
    except (OSError, ValueError):
        return ""
