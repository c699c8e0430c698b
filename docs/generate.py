"""What ``mkdocs build`` makes of the repository itself: the home page of README.md, every command's help, every setting
with its meaning, and the results and examples that the pages link to. None of it is committed a second time.

A link in a page is written as it is right in the repository (``../benchmarks/results/pong.png``), and rewritten here.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import json
import os
import posixpath
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "envs")]

COPIED = ("benchmarks/results/**/*", "examples/*.py", "CHANGELOG.md", "LICENSE")
"""Files outside of docs/ that pages may link to; they lie under repo/ in the site."""
TOO_LONG = {"train": "every setting, see [settings](settings.md)"}
MACHINES = "<!-- rows and machines -->"
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages and the copied files."""
    from mkdocs.structure.files import File

    made = {
        "index.md": (ROOT / "README.md").read_text(),
        "reference/commands.md": commands_page(),
        "reference/settings.md": settings_page(),
    }
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    for pattern in COPIED:
        for path in sorted(p for p in ROOT.glob(pattern) if p.is_file()):
            uri = f"repo/{path.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links of the repository -> links of the site; and the table of what was measured where."""
    uri = page.file.src_uri
    if uri.startswith("repo/"):
        page.meta["search"] = {"exclude": True}  # results and changes are read, not searched
    return relink(markdown.replace(MACHINES, machines_table()), source_of(uri), uri)


def source_of(uri: str) -> str:
    """The path in the repository of the page ``uri``."""
    if uri == "index.md":
        return "README.md"
    return uri.removeprefix("repo/") if uri.startswith("repo/") else f"docs/{uri}"


def relink(markdown: str, source: str, uri: str) -> str:
    """``markdown`` of the file ``source`` with its relative links as they must be in the page ``uri``.

    Blocks of code stay as they are. A link to what is not in the site stays too, and fails the strict build.
    """

    def target(link: re.Match[str]) -> str:
        start, path, end = link.groups()
        if re.match(r"[a-z]+:|/", path):
            return link[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        home = {"README.md": "index.md"}.get(found) or (
            found.removeprefix("docs/") if found.startswith("docs/") else f"repo/{found}"
        )
        return start + posixpath.relpath(home, posixpath.dirname(uri) or ".") + end

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(target, part) for part in parts)


def machines_table() -> str:
    """Each file of results: the program that wrote it, its rows, and the machines that they say they ran on."""
    lines = ["| rows | of | written by | machine |", "| --- | ---: | --- | --- |"]
    for path in sorted((ROOT / "benchmarks" / "results").rglob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        facts = [row.get("machine", row) for row in rows]
        named = {f"{f['cpu']}, {f['cores']} cores, {f['memory_gib']} GiB" for f in facts if "cpu" in f}
        program = ROOT / "benchmarks" / f"{path.stem}.py"
        written = f"`benchmarks/{program.name}`" if program.is_file() else "see the rows"
        link = f"[{path.stem}](../{path.relative_to(ROOT).as_posix()})"
        lines.append(f"| {link} | {len(rows)} | {written} | {'; '.join(sorted(named)) or 'not in the rows'} |")
    return "\n".join(lines)


def commands_page() -> str:
    """Each command's own help."""
    from gala.cli import COMMANDS
    from gala.commands.overfit.dispatch import SUBCOMMANDS

    lines = [
        "# Commands",
        "",
        "What `gala COMMAND --help` prints. How they are used: [use the commands](../howto/commands.md).",
        "",
    ]
    for name, (_, summary) in COMMANDS.items():
        lines += [f"## gala {name}", "", f"{summary[0].upper()}{summary[1:]}.", ""]
        lines += [f"`gala {name} --help` lists {TOO_LONG[name]}.", ""] if name in TOO_LONG else fenced(help_of([name]))
        if name == "overfit":
            for sub in SUBCOMMANDS:
                lines += [f"### gala overfit {sub}", "", *fenced(help_of(["overfit", sub]))]
    return "\n".join(lines)


def help_of(words: list[str]) -> str:
    """The help text of a command at 80 columns."""
    from gala.cli import main

    held, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    with contextlib.redirect_stdout(held), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    os.environ.update({"COLUMNS": columns} if columns else {})
    if columns is None:
        del os.environ["COLUMNS"]
    return "\n".join(line.rstrip() for line in held.getvalue().strip().splitlines())


def fenced(text: str) -> list[str]:
    return ["```text", text, "```", ""]


def settings_page() -> str:
    """Tables of all settings of `gala train`, `gala supervised` and `gala video train`."""
    from gala.config.parse import ALIASES, COMMANDS

    lines = [
        "# Settings",
        "",
        "Written as `key=value` or `--key value`; a later one wins over an earlier one, and over `preset=NAME`.",
        "",
    ]
    lines += [f"Short for a longer name: {', '.join(f'`{short}` is `{name}`' for short, name in ALIASES.items())}.", ""]
    for cls, command in COMMANDS.items():
        lines += [f"## {command}", ""]
        for title, rows in tables(cls, ""):
            lines += [
                *title,
                "| setting | default | values | meaning |",
                "| --- | --- | --- | --- |",
            ]
            lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    return "\n".join(lines)


def tables(cls: type, prefix: str) -> Iterator[tuple[list[str], list[tuple[str, str, str, str]]]]:
    """(title, rows) of each dataclass of settings: its own leaves first, then its groups."""
    hints, meanings = get_type_hints(cls), field_docs(cls)
    leaves = [f for f in dataclasses.fields(cls) if not dataclasses.is_dataclass(hints[f.name])]
    title = [f"### {prefix[:-1]}", "", cls_summary(cls), ""] if prefix else []
    yield (
        title,
        [
            (
                f"`{prefix}{f.name}`",
                f"`{shown(default_of(f))}`" if default_of(f) != "" else "",
                values(hints[f.name], f),
                cell(meanings.get(f.name, "")),
            )
            for f in leaves
        ],
    )
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from tables(hints[f.name], f"{prefix}{f.name}.")


def cls_summary(cls: type) -> str:
    text = " ".join((cls.__doc__ or "").split())
    return "" if text.startswith(f"{cls.__name__}(") else cell(text)


def field_docs(cls: type) -> dict[str, str]:
    """Field -> the string under it, for each class that ``cls`` is made of."""
    out: dict[str, str] = {}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for node, following in zip(body.body, [*body.body[1:], None], strict=True):
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and is_text:
            out[node.target.id] = str(following.value.value)  # type: ignore[union-attr]
    return out


def default_of(field: Any) -> Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def shown(value: Any) -> str:
    """A default as one would type it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def values(hint: Any, field: Any) -> str:
    """What a setting may be, in words."""
    bound = field.metadata.get("bound")
    names = [get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    if names:
        own = [] if get_origin(hint) is Literal else ["`module:attribute`"]
        return ", ".join([*(f"`{name}`" for name in names[0]), *own])
    if get_origin(hint) is tuple:
        kind = {int: "whole numbers", float: "numbers", str: "words"}[get_args(hint)[0]]
    else:
        kind = {int: "whole number", float: "number", bool: "true, false", str: "text"}.get(hint, cell(str(hint)))
    return cell(f"{kind}, {bound.rule}" if bound and hint is not str else bound.rule if bound else kind)


def cell(text: str) -> str:
    """One line that fits into a table, with what Markdown would take for its own written out."""
    parts = " ".join(text.split()).replace("``", "`").replace("|", "\\|").split("`")
    return "`".join(p if i % 2 else p.replace("*", "\\*").replace("<", "&lt;") for i, p in enumerate(parts))
