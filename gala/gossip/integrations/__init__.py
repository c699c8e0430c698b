"""Gossip in the training loops of other libraries: a callback each, over the same averager.

No library is imported, or needed, unless its module here is.
"""

from __future__ import annotations

import os

_RANKS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK")
_SIZES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE")


def hide_torchrun() -> None:
    """Take torchrun's variables out of this process's environment, once ``init_from_env`` has read them.

    Trainer and Lightning look for them, and would all-reduce each gradient between the processes, who would wait for
    each other at each step. Without them each process is a training of its own, and gossip is all that connects them.
    """
    for name in (*_RANKS, *_SIZES, "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        os.environ.pop(name, None)
