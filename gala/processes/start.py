"""How child processes are started. Imports nothing heavy, so that it can be the first thing that a command does."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing as mp
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from types import ModuleType


def start_method(preload: str) -> BaseContext:
    """Children are forked, one by one, from a process without threads that has imported ``preload``, the module that
    they need: that spares each of them two or three seconds of processor time. They are spawned where the system cannot
    do so.

    The earlier this is called, the more of those imports go on while the caller does something else.
    """
    # OpenMP threads that spin while they wait take the cores from the simulators and from the other learners.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with ending_signals_blocked(), _working_directory_last():
        resource_tracker.ensure_running()  # now, because it unblocks SIGINT when it starts
    if "forkserver" not in mp.get_all_start_methods():
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([preload])
    with ending_signals_blocked(), _working_directory_last():
        forkserver.ensure_running()
    return context


_SAFE_PATH, _OURS = "PYTHONSAFEPATH", "gala"


def interpreter() -> list[str]:
    """The words that start Python for ``-m`` or ``-c``, which take a random.py of the working directory for Python's
    own: without that, unless this process looks there first too."""
    return [sys.executable] if _looks_here_first() else [sys.executable, "-P"]


def _looks_here_first() -> bool:
    return os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd())  # "" is there too


@contextlib.contextmanager
def _working_directory_last() -> Iterator[None]:
    """multiprocessing's helpers run ``python -c``, which takes a random.py of the working directory for Python's own.
    A process that starts inside does so only if this one looks there first too."""
    if _SAFE_PATH in os.environ or _looks_here_first():
        yield
        return
    os.environ[_SAFE_PATH] = _OURS
    try:
        yield
    finally:
        forget_safe_path()


def forget_safe_path() -> None:
    """Programs that a child starts look for modules where they would have without us."""
    if os.environ.get(_SAFE_PATH) == _OURS:
        del os.environ[_SAFE_PATH]


def wake_helpers() -> None:
    """Let go on what multiprocessing has started beside the children, if somebody has stopped it: a forkserver that is
    stopped starts no child and tells of no end, and a resource tracker that is outlives this process."""
    _signal_helper(forkserver._forkserver, "_forkserver_pid", signal.SIGCONT)
    _signal_helper(resource_tracker._resource_tracker, "_pid", signal.SIGCONT)


def kill_forkserver() -> None:
    """Every child that it has started then counts as ended, so that nobody waits for one; the next child to start gets
    a new one."""
    _signal_helper(forkserver._forkserver, "_forkserver_pid", signal.SIGKILL)


def _signal_helper(helper: object, attribute: str, number: signal.Signals) -> None:
    pid = getattr(helper, attribute, None)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


atexit.register(wake_helpers)  # runs before multiprocessing's own handler, which waits for the children


ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
"""What terminals and schedulers send to a program that is to end, or soon will be; SLURM warns by SIGUSR1."""


@contextlib.contextmanager
def ending_signals_blocked() -> Iterator[None]:
    """Inherited by a process that starts inside: they are the parent's to handle, also where all processes of a job get
    them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_main_lock = threading.Lock()


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """A process that starts inside hears of no ``__main__``.

    Otherwise multiprocessing would have it run the parent's script again: one that trains without asking for its
    ``__name__`` would train in every child, and one that came from standard input cannot be run twice.
    """
    with _main_lock:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
