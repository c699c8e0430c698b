"""Trained policies on the Hugging Face Hub: ``push`` and ``pull``. Of the Hub only safetensors and JSON are read."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gala import __version__
from gala.config.extras import install
from gala.processes.output import is_terminal

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf://"
FILE, CARD_FILE = "model.safetensors", "README.md"
"""What a repository holds. The Hub counts the parameters of a file of that name, and shows that card."""
_TIMEOUT_S = 30.0  # for first words; the client has none of its own
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def check_hub(repo: str, word: str) -> None:
    """Before anything is computed or sent. ``word`` is how the user named ``repo``, for the error.

    Raises:
        ValueError: ``repo`` is not USER/NAME, or the package huggingface_hub is missing.
    """
    if not _NAME.fullmatch(repo) or repo.endswith(".git") or ".." in repo or "--" in repo:
        raise ValueError(f"{word} must be USER/NAME, of letters, digits, '-', '_' and '.'")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ValueError(f"{word} needs the package huggingface_hub: {install('hub')}")


def is_on_hub(path: str | Path) -> bool:
    """Whether ``path`` is hf://USER/NAME."""
    return isinstance(path, str) and path.startswith(PREFIX)


def check_push(repo: str, private: bool, overwrite: bool) -> str:
    """Ask the Hub whether a policy may be pushed to ``repo``, before it is made.

    Returns:
        The commit that a push would follow, so that it cannot cover what somebody else pushes meanwhile; "" if there is
        no such repository yet.

    Raises:
        ValueError: one line: nobody is logged in, no network, ``repo`` has such files and ``overwrite`` is False, or it
            is public, though ``private`` was asked for.
    """
    import huggingface_hub
    from huggingface_hub import errors

    word = f"push={repo}"
    if huggingface_hub.get_token() is None:
        raise ValueError(f"{word} needs a token of the Hub: `hf auth login`, or HF_TOKEN")
    with _one_line(word):
        try:
            info = _api().model_info(repo, timeout=_TIMEOUT_S)
        except errors.GatedRepoError:
            raise
        except errors.RepositoryNotFoundError:
            return ""
    there = [file.rfilename for file in info.siblings or () if file.rfilename in (FILE, CARD_FILE)]
    if there and not overwrite:
        raise ValueError(
            f"{word} has {' and '.join(sorted(there))} already; choose another name, or say overwrite=true, which "
            "commits on top and leaves the older files in its history"
        )
    if private and not info.private:
        raise ValueError(f"private=true, but {repo} is there and public; make it private in its settings first")
    return info.sha or ""


def push(repo: str, path: Path, card: str, *, private: bool, parent: str) -> str:
    """One commit with the weights in ``path`` and the ``card``; asks for nothing. What else is in the repository stays.
    Returns the address of the commit.

    Args:
        repo: USER/NAME; made where ``parent`` is "".
        path: a file of `gala.evaluation.weights`.
        card: Markdown with the Hub's header.
        private: a repository that is made is; else it is for everybody to see, unless its organisation chose otherwise.
        parent: what ``check_push`` has returned.

    Raises:
        ValueError: one line, whatever goes wrong.
    """
    from huggingface_hub import CommitOperationAdd

    with _one_line(f"push={repo}"):
        api = _api()
        if not parent:
            api.create_repo(repo, private=private or None)  # None: as the user or organisation has chosen
            parent = api.model_info(repo, timeout=_TIMEOUT_S).sha or ""
        files = [CommitOperationAdd(FILE, str(path)), CommitOperationAdd(CARD_FILE, card.encode())]
        message = f"gala {__version__}: {FILE} and {CARD_FILE}"
        done = api.create_commit(repo, files, commit_message=message, parent_commit=parent or None)
    return str(done.commit_url)


def pull(address: str, revision: str | None) -> Path:
    """The weights of hf://USER/NAME, as a file in the Hub's cache; nothing else of the repository is fetched.

    With HF_HUB_OFFLINE=1, or without a network, the file that is in the cache.

    Args:
        address: hf://USER/NAME.
        revision: a branch, a tag or a commit; None is ``main``.

    Raises:
        ValueError: one line: no such repository, revision or file; no network; the package is missing.
    """
    repo = address.removeprefix(PREFIX)
    check_hub(repo, address)
    with _one_line(address if revision is None else f"{address} at revision {revision}"):
        return Path(_api().hf_hub_download(repo, FILE, revision=revision))


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="gala", library_version=__version__)


@contextmanager
def _one_line(word: str) -> Iterator[None]:
    """What the Hub's client raises inside becomes a ValueError that begins with ``word`` and says what to do. Its bars
    are drawn on terminals only."""
    from huggingface_hub import constants, utils

    quiet = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not is_terminal(sys.stderr)
    quiet = quiet and not utils.are_progress_bars_disabled()
    try:
        if quiet:
            utils.disable_progress_bars()
        yield
    except Exception as error:  # HTTP libraries, operating systems and Rust extensions all have kinds of their own
        raise ValueError(f"{word}: {_reason(error)}") from error
    finally:
        if quiet:
            utils.enable_progress_bars()


def _reason(error: Exception) -> str:
    from huggingface_hub import constants, errors

    place = os.environ.get("HF_ENDPOINT") or "the Hub"
    uncached = f"{place} cannot be reached, and it is not in the cache; is there a network?"
    if constants.HF_HUB_OFFLINE:
        uncached = "HF_HUB_OFFLINE is set, and it is not in the cache; unset it, or fetch it once with a network"
    by_status = dict.fromkeys(
        (401, 403), "{} refuses your token ({}); take one that may write: `hf auth login`, or HF_TOKEN"
    )
    by_status |= dict.fromkeys((409, 412), "somebody else has committed meanwhile; look at it and try again")
    reasons: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [  # the first that fits
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set; unset it to push"),
        (errors.GatedRepoError, "its owner wants to be asked first; do that on its page, then `hf auth login`"),
        (errors.RepositoryNotFoundError, "no such repository, or a private one and no token for it: `hf auth login`"),
        (errors.RevisionNotFoundError, "no such revision; its page lists branches, tags and commits"),
        (errors.LocalEntryNotFoundError, uncached),
        (errors.EntryNotFoundError, f"it has no {FILE}, which `gala export RUN push=USER/NAME` writes"),
    ]
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if status in by_status:
        reasons.append((errors.HfHubHTTPError, by_status[status].format(place, status)))
    if not status:
        told = f"{place} cannot be reached ({type(error).__name__}); is there a network?"
        reasons.append(((errors.HTTPError, ConnectionError, TimeoutError), told))
    text = " ".join(str(error).split())[:200]
    return next((reason for kind, reason in reasons if isinstance(error, kind)), f"{type(error).__name__}: {text}")
