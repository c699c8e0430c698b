"""Waiting for the hub, which is suspended whenever its machine is."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from gala.gossip.awake_clock import AwakeClock

HUB_TIMEOUT_S = 60.0
_LOOK_S = 1.0


def answer_of(call: Any) -> Any:
    """What a call to the hub returns.

    Raises:
        GetTimeoutError: nothing came in the seconds of ``HUB_TIMEOUT_S``, as far as this process was awake.
    """
    clock = AwakeClock()
    while True:
        clock.look(time.monotonic())
        try:
            return ray.get(call, timeout=_LOOK_S)
        except GetTimeoutError:
            if clock.total_s > HUB_TIMEOUT_S:
                raise
