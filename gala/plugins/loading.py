"""From ``module:attribute`` to the object: imported anew in every process that needs it.

Modules are also looked for in the working directory; ``file.py:attribute`` names a file that is on no path.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

_PATH = re.compile(r"(?P<module>[\w.]+|.+\.py):(?P<attribute>[^\W\d]\w*(\.[^\W\d]\w*)*)")
_files: dict[Path, ModuleType] = {}
_being_imported: ContextVar[str] = ContextVar("being imported", default="")


FAULTS: tuple[type[BaseException], ...] = (Exception, SystemExit)
"""What a user's own code may raise: a script's own sys.exit must not end ours, as if all were well."""


class TrainsWhenImported(BaseException):
    """A file was imported for what it defines, and has come to its call of ``gala.train``."""


def is_path(text: str) -> bool:
    """Whether ``text`` has the form ``module:attribute`` or ``file.py:attribute``."""
    return _PATH.fullmatch(text) is not None


def load(path: str, setting: str) -> Any:
    """The object named by ``path``, imported. ``setting`` begins the error's line.

    Raises:
        ValueError: there is no such module, file or attribute, or the module fails while it is imported.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError(f"{setting}={path} is not module:attribute")
    try:
        module = _import(match["module"])
    except FAULTS as error:
        raise ValueError(f"{setting}={path}: {_reason(match['module'], error)}") from error
    try:
        return attribute_of(module, match["attribute"])
    except AttributeError:
        close = difflib.get_close_matches(match["attribute"], vars(module), 1, 0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{setting}={path}: {match['module']} has no attribute {match['attribute']!r}{hint}") from None


def stop_if_imported() -> None:
    """Called where a training would begin: a script that is imported for what it defines goes no further."""
    if _being_imported.get():
        raise TrainsWhenImported


def search_working_directory() -> None:
    """Let modules be found where the command was typed, after all other places."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def absolute(text: str) -> str:
    """``file.py:attribute`` with the whole path of the file; any other text as it is."""
    match = _PATH.fullmatch(text)
    if match is None or not match["module"].endswith(".py"):
        return text
    return f"{Path(match['module']).resolve()}:{match['attribute']}"


def file_of(module: str) -> Path | None:
    """The file that was run here as a module of this name; None if there was none."""
    return next((file for file, run in _files.items() if run.__name__ == module), None)


def attribute_of(module: ModuleType, dotted: str) -> Any:
    """``module.a.b`` for ``a.b``. Raises AttributeError."""
    value: Any = module
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def _import(name: str) -> ModuleType:
    if name.endswith(".py"):
        return _run_file(Path(name).resolve())
    search_working_directory()
    with _importing(name):
        return importlib.import_module(name)


def _run_file(path: Path) -> ModuleType:
    """A script as a module of another name than ``__main__``, up to where it would train."""
    main_file = getattr(sys.modules["__main__"], "__file__", None)
    if main_file is not None and Path(main_file).resolve() == path:
        return sys.modules["__main__"]
    if path in _files:
        return _files[path]
    name = f"gala_file_{len(_files)}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = sys.modules[name] = _files[path] = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        with _importing(str(path)), contextlib.suppress(TrainsWhenImported):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name], _files[path]
        raise
    _send_by_value(module)
    return module


def _send_by_value(module: ModuleType) -> None:
    """Processes in which simulators run (env.vectorization=async) get what is defined in it, and need not import it."""
    with contextlib.suppress(ImportError):
        import cloudpickle

        cloudpickle.register_pickle_by_value(module)


@contextlib.contextmanager
def _importing(name: str) -> Iterator[None]:
    outer = _being_imported.set(name)
    try:
        yield
    except TrainsWhenImported:
        if name.endswith(".py"):
            raise
        raise RuntimeError("it trains when it is imported; put that under: if __name__ == '__main__':") from None
    finally:
        _being_imported.reset(outer)


def _reason(module: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and (module + ".").startswith(f"{error.name}."):
        return f"there is no module {error.name}, neither installed nor in {os.getcwd()}"
    return f"{module} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
