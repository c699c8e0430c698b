"""Names of checkpoints, and the stored checkpoint that each leads to."""

from __future__ import annotations

import shutil
from pathlib import Path

from gala.files.whole import write_atomically

LATEST = "latest"


class CheckpointNames:
    """The entries of ``root``, each a link to ``.store/<number>``: see ``gala.runs.checkpoints``."""

    def __init__(self, root: Path) -> None:
        self._root, self._store = root, root / ".store"

    def all(self) -> list[str]:
        """Every checkpoint that can be loaded by name, in an order for people."""
        names = self._written() or [*self._lost()]
        return sorted(names, key=lambda name: (name.rstrip("0123456789"), len(name), name))  # step600, step1200

    def target(self, name: str) -> Path:
        """The folder behind a name."""
        path = self._root / name
        if path.is_file():
            return (self._store / path.read_text().strip()).resolve()
        if path.is_symlink() or path.is_dir():
            return path.resolve()
        return (self._store / self._lost().get(name, name)).resolve()

    def point(self, name: str, number: str) -> None:
        """Let ``name`` lead to a stored checkpoint from now on."""
        new, path = self._root / f".{name}.tmp", self._root / name
        new.unlink(missing_ok=True)
        try:
            new.symlink_to(Path(".store") / number)
        except OSError:  # a file system without links
            write_atomically(new, number.encode())
        aside = self._move_aside(path)
        new.rename(path)
        shutil.rmtree(aside, ignore_errors=True)

    def drop(self, name: str) -> None:
        """Forget a name, which must be written."""
        path = self._root / name
        aside = self._move_aside(path)
        path.unlink(missing_ok=True)
        shutil.rmtree(aside, ignore_errors=True)

    def _move_aside(self, path: Path) -> Path:
        """A name that is a folder, of a copy that has followed the links, is out of the way at once; its contents, at
        the place that is returned, take longer to delete."""
        aside = self._root / f".{path.name}.old"
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        return aside

    def write_lost(self) -> None:
        """Before anything changes: what has no name then is deleted."""
        if not self._written():
            for name, number in self._lost().items():
                self.point(name, number)

    def _written(self) -> list[str]:
        return [path.name for path in self._root.glob("[!.]*") if _is_name(path)] if self._root.is_dir() else []

    def _lost(self) -> dict[str, str]:
        """What all that is stored is called, name to number, where no name is written: a copy has dropped the links, or
        a kill came before the first checkpoint had its name."""
        stored = sorted(file.parent.name for file in self._store.glob("[0-9]*/meta.json"))
        return {LATEST if number == stored[-1] else f"stored{number}": number for number in stored}


def _is_name(path: Path) -> bool:
    """Whether an entry of the folder names a checkpoint, in one of the three ways."""
    if path.is_symlink():
        return True
    if path.is_dir():
        return (path / "meta.json").is_file()
    return path.suffix != ".tmp" and path.stat().st_size < 20 and path.read_bytes().strip().isdigit()
