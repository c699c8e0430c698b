"""YAML that people write by hand, and JSON: plain mappings, lists and scalars, and one clear line for the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES, MAX_DEPTH = 4 * 2**20, 20
"""Aliases and deep nesting make small files expand without limit, or overflow the stack: neither is needed here."""


def read_yaml(path: Path, *, raw: bool = False) -> Any:
    """The tree in ``path``; with ``raw`` every scalar stays the text that it is (``7e-4``, ``true``).

    Raises:
        ValueError: one line that names the file, and the line in it: unreadable, too large, not UTF-8, not YAML, nested
            too deeply, a key that occurs twice, an alias, or a second document.
    """
    import yaml

    text, loader = read_text(path), None
    try:
        loader = (yaml.BaseLoader if raw else yaml.SafeLoader)(text)  # refuses control characters
        node = loader.get_single_node()
        _check(path, node, set())
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {shortened(' '.join(str(error).split()))}") from None
    except RecursionError:  # in the parser, which cannot be asked how deep it is
        raise ValueError(f"{path} is nested more than {MAX_DEPTH} deep") from None
    finally:
        if loader is not None:
            loader.dispose()


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file, without its byte-order mark. Raises ValueError: one line that names the file."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise ValueError(f"cannot read {str(path)!r}: {error}") from None
    if len(data) > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None


def parse_json(text: str | bytes) -> Any:
    """``json.loads`` that raises ValueError for what is no JSON, and for what is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> Any:
    """The tree in the JSON file ``path``. Raises ValueError: one line that names the file."""
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def control_character(text: str) -> str:
    """The first control character in ``text`` (it could move a terminal's cursor, or end a line), or nothing."""
    return next((c for c in text if ord(c) < 32 or 127 <= ord(c) < 160), "")


def _check(path: Path, node: Any, seen: set[int], depth: int = 0) -> None:
    """Raises ValueError for what YAML allows and hand-written settings do not need; see ``read_yaml``."""
    import yaml

    if not isinstance(node, yaml.CollectionNode):
        return
    place = f"{path}, line {node.start_mark.line + 1}"
    if id(node) in seen:
        raise ValueError(f"{place}: anchors and aliases are not read; write the value out")
    if depth == MAX_DEPTH:
        raise ValueError(f"{place}: nested more than {MAX_DEPTH} deep")
    seen.add(id(node))
    values = node.value
    if isinstance(node, yaml.MappingNode):
        names = [str(key.value) for key, _ in node.value]
        for i, (key, _) in enumerate(node.value):
            if names[i] in names[:i]:  # its first value would be lost without a word
                raise ValueError(f"{path}, line {key.start_mark.line + 1}: the key {names[i][:80]!r} occurs twice")
        values = [value for _, value in node.value]
    for value in values:
        _check(path, value, seen, depth + 1)


def shortened(text: str, most: int = 200) -> str:
    """``text`` for an error's one line: what nobody would read to its end is cut."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
