"""The command ``gala``. Only the chosen command's module is imported, so ``gala --help`` needs no torch."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

from gala.processes.child import TRACEBACK
from gala.processes.output import forgiving_output, is_terminal, open_standard_descriptors, printable, tell_of_crashes

COMMANDS = {
    "train": ("gala.commands.train", "train a policy: gala train preset=atari/pong learners=4"),
    "resume": ("gala.commands.resume", "continue a run from its latest checkpoint"),
    "replay": ("gala.commands.replay", "repeat a recorded asynchronous run, to the last bit"),
    "scale": ("gala.commands.scale", "let learners join or leave a run that is training"),
    "eval": ("gala.commands.evaluate", "play an exact number of episodes with a trained policy"),
    "record": ("gala.commands.record", "write a policy's episodes down: frames, actions, rewards"),
    "diagnose": ("gala.commands.diagnose", "how sharp a checkpoint's loss is, and how noisy its gradient"),
    "suggest-lr": ("gala.commands.suggest_lr", "the learning rate when learners or simulators change, and why"),
    "watch": ("gala.commands.watch", "look on at a run that trains, or at how one has ended"),
    "report": ("gala.commands.report", "one offline page of a run: curves, gossip, evaluation, settings"),
    "plot": ("gala.commands.plot", "draw a run's learning curve, or its epsilon ball"),
    "bench": ("gala.commands.bench", "rates of GALA, A2C and others, and this machine's limit"),
    "tune": ("gala.commands.tune", "the fastest learners and threads for a preset, on this machine"),
    "compare": (
        "gala.commands.compare.dispatch",
        "does GALA learn as well as A2C? faster? or any two runs",
    ),
    "sweep": ("gala.commands.sweep", "search for the settings that learn best, with Optuna"),
    "overfit": ("gala.commands.overfit.dispatch", "does it generalise, or has it memorised its training MDPs?"),
    "supervised": ("gala.commands.supervised", "compare gossip, all-reduce and local SGD on a small classifier"),
    "needle": (
        "gala.commands.needle",
        "how small may an object be that decides an image's class?",
    ),
    "video": ("gala.commands.video", "learn to predict videos, with the bound on held-out ones"),
    "export": ("gala.commands.export", "a trained policy as one file: weights and model card, or ONNX"),
    "presets": ("gala.commands.presets", "list the presets"),
    "envs": ("gala.commands.envs", "list the environments of each backend"),
    "audit-objects": ("gala.commands.audit_objects", "the smallest thing in an environment's pictures: is it seen?"),
    "topologies": ("gala.commands.topologies", "list the gossip topologies, or show one round by round"),
    "doctor": ("gala.commands.doctor", "what this machine and this installation offer"),
    "bug-report": ("gala.commands.bug_report", "what a maintainer needs to know, without private paths"),
}
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for a failed run, 2 for bad input, 130 after Ctrl-C.

    Nobody needs to be listening, and any encoding will do. A place that standard output leads to and that cannot be
    written, a full disk say, is one line and status 2, unless the command goes on without, as trainings do.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    open_standard_descriptors()
    tell_of_crashes()
    with forgiving_output(tells=True) as output:
        words = [word for word in given if word != "--traceback"]
        try:
            with _children_tell(len(words) < len(given)):
                status = _run(words)
            output.flush()
            return status
        except ValueError as error:
            if len(words) < len(given):
                traceback.print_exception(error)
            _say(f"gala: error: {printable(str(error))}")
            return EXIT_USAGE
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        except (RuntimeError, FloatingPointError) as error:
            if len(words) < len(given) or not getattr(error, "says_all", False):
                raise
            line, _, rest = str(error).partition("\n")
            _say(f"gala: error: {printable(line)}" + ("; --traceback says where" if rest else ""))
            return EXIT_FAILED
        except OSError as error:
            if len(words) < len(given):
                traceback.print_exception(error)
            return _failed_file(error, error is output.failure)


@contextlib.contextmanager
def _children_tell(whole: bool) -> Iterator[None]:
    """``whole``: child processes that fail say in full where the error came from."""
    if whole:
        os.environ[TRACEBACK] = "1"
    try:
        yield
    finally:
        os.environ.pop(TRACEBACK, None)


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if words[0] == "--version":
        from gala import __version__

        print(f"gala {__version__}")
        return 0
    if words[0] not in COMMANDS:
        raise ValueError(f"unknown command {words[0]!r}; `gala --help` lists them{_nearest(words[0])}")
    return int(importlib.import_module(COMMANDS[words[0]][0]).main(words[1:]))


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_KIND = (errno.ENOTDIR, errno.ENOENT, errno.EISDIR, errno.EEXIST)
_OF_PLACES = (*_FULL, *_OF_KIND, errno.EROFS, errno.EACCES, errno.EPERM)


def _failed_file(error: OSError, of_output: bool = False) -> int:
    """The exit status after an error that is the words', the reader's or the disk's; raises any other again."""
    if isinstance(error, BrokenPipeError):  # the reader of a list, `head` say, has seen enough
        return 0
    if of_output:
        _say(f"gala: error: {error.strerror}: the output could not be written; write it to another place")
        return EXIT_USAGE
    name = printable(str(error.filename2 or error.filename))  # of a file that was to be renamed: the new name
    if error.errno == errno.ENAMETOOLONG:
        _say(f"gala: error: a name is too long for a file: {name[:80]}...")
    elif error.errno in _OF_PLACES and error.filename is not None:
        _say(f"gala: error: {name}: {error.strerror}: it cannot be read or written there")
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        _say(f"gala: error: {error.strerror}; raise the limit of open files, `ulimit -n 4096`, or take fewer learners")
    elif error.errno in _FULL:  # only writing fails so
        _say(f"gala: error: {error.strerror}: a file could not be written; make room, or raise `ulimit -f`")
    else:
        raise error
    return EXIT_USAGE


def _say(line: str) -> None:
    """One line on standard error; on a terminal, broken between words where its columns end."""
    if is_terminal(sys.stderr):
        import shutil
        import textwrap

        columns = shutil.get_terminal_size().columns
        line = textwrap.fill(line, max(columns, 40), break_long_words=False, break_on_hyphens=False)
    print(line, file=sys.stderr)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    title, more = (
        "gala: gossip-based deep reinforcement learning",
        "`gala COMMAND --help` says more; --traceback, where an error came from.",
    )
    return f"{title}\n\nusage: gala COMMAND ...\n\n{rows}\n\n{more}"


def _nearest(word: str) -> str:
    import difflib

    close = difflib.get_close_matches(word, COMMANDS, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
