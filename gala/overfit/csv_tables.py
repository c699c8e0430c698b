"""Tables in CSV, by whatever they are separated and however their columns are spelt."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

_SEPARATORS = ",;\t"


def read_table(path: str | Path, needed: Sequence[str], known: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file that has the columns ``needed``, by column; spaces around a value are no part of it.

    Values are separated by commas, semicolons or tabs: by what leaves most of these columns in the first line. They may
    be spelt in any case, as in ``Run``; so may those that are ``known``.

    Raises:
        ValueError: there is no such file, or nothing in it; a column is missing or there twice; or, naming the line, a
            row has more or fewer values than there are columns.
    """
    header, *lines = _lines(path, {*needed, *known})
    names = [_named(name, {*needed, *known}) for name in header]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path} has two columns '{twice[0]}'; rename or remove one")
    if missing := [name for name in needed if name not in names]:
        raise ValueError(f"{path} has no column '{missing[0]}'; it needs {', '.join(needed)}")
    if not lines:
        raise ValueError(f"{path} has no rows")
    for k, line in enumerate(lines, 2):
        if len(line) != len(names):
            raise ValueError(f"{path}:{k}: {len(names)} columns were wanted")
    return [dict(zip(names, map(str.strip, line), strict=True)) for line in lines]


def check_filled(row: Mapping[str, str], names: Sequence[str], where: str) -> None:
    """Raises ValueError, beginning with ``where``, if a row has no value in one of these columns."""
    if empty := [name for name in names if not row[name]]:
        raise ValueError(f"{where}: {empty[0]} is empty")


def _lines(path: str | Path, wanted: set[str]) -> list[list[str]]:
    """The values of each line that is not blank, the names of the columns first."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            text = file.read()
        first = text.lstrip().partition("\n")[0]
        found = {mark: _named_in(first, mark, wanted) for mark in _SEPARATORS}
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=max(found, key=lambda mark: found[mark])))
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a directory; a table is a file whose name ends in .csv") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from None
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return [line for line in lines if line]


def _named_in(line: str, mark: str, wanted: set[str]) -> int:
    return sum(_named(name, wanted) in wanted for name in next(csv.reader([line], delimiter=mark), []))


def _named(name: str, wanted: set[str]) -> str:
    """A column's name as it is ``wanted``, if it is; else as it is written."""
    plain = name.strip()
    return plain.lower() if plain.lower() in wanted else plain
