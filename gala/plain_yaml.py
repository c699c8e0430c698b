"""YAML that people write by hand: plain mappings, lists and scalars, and one clear line for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MAX_BYTES, MAX_DEPTH = 4 * 2**20, 20
"""Aliases and deep nesting make small files expand without limit, or overflow the stack: neither is needed here."""


def read_yaml(path: Path, *, raw: bool = False) -> Any:
    """The tree in ``path``; with ``raw`` every scalar stays the text that it is (``7e-4``, ``true``).

    Raises:
        ValueError: one line that names the file, and the line in it: unreadable, too large, not UTF-8, not YAML, nested
            too deeply, a key that occurs twice, an anchor or alias, or a second document.
    """
    import yaml

    text = read_text(path)
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ValueError(f"{path}, line {line}: anchors and aliases are not read; write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"{path}, line {line}: nested more than {MAX_DEPTH} deep")
        node = yaml.compose(text, yaml.SafeLoader)
        _refuse_double_keys(path, node)
        return yaml.load(text, yaml.BaseLoader if raw else yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without its byte-order mark. Raises ValueError: one line that names the file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise ValueError(f"cannot read {str(path)!r}: {error}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None


def _refuse_double_keys(path: Path, node: Any) -> None:
    """A key that occurs twice would silently lose its first value."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise ValueError(f"{path}, line {key.start_mark.line + 1}: the key {name[:80]!r} occurs twice")
            seen.add(name)
            _refuse_double_keys(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_double_keys(path, value)
