"""The frame of a page: one file that opens without a network, light or dark as the reader has it, from 500 px on."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{generator}">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ddd; --soft: #f3f3f3;
  --yes: #2e7d4f; --no: #b3372f; --open: #6b6b6b; --first: #3b62a8; --second: #c2601c }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e6e6; --paper: #16181b; --line: #3a3d42; --soft: #24272b;
  --yes: #6fcf97; --no: #ff8a80; --open: #a8a8a8; --first: #8ab0f0; --second: #f0a56b }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere }}
h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.15rem; margin-bottom: .2rem }} h3 {{ font-size: 1rem }}
.wide {{ overflow-x: auto; margin: .5rem 0 1rem }}
table {{ border-collapse: collapse; font-size: 14px }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
.facts th {{ text-align: left }}
.facts td {{ white-space: normal; text-align: left; vertical-align: top }}
.facts td:first-child {{ overflow-wrap: normal; min-width: 6rem }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 1rem }}
code {{ background: var(--soft); padding: .1rem .3rem; border-radius: .2rem }}
figure {{ margin: 0 0 1rem }} .figures figure {{ margin: 0 }}
.broad {{ overflow-x: auto }} .broad img {{ min-width: 38rem; max-width: none; width: 100% }}
figcaption {{ font-size: 13px; color: var(--open) }}
img {{ max-width: 100%; background: #fff; border-radius: .3rem }}
{style}</style>
"""


def page(title: str, body: str, style: str = "", generator: str = "gala") -> str:
    """A whole page: ``title`` as text, ``body`` as HTML, ``style`` as CSS that is added to that of all pages."""
    head = _HEAD.format(title=html.escape(title), style=style, generator=html.escape(generator))
    return f"{head}<h1>{html.escape(title)}</h1>\n{body}\n</html>\n"


def table(rows: Sequence[Sequence[Any]], kind: str = "") -> str:
    """``rows`` of text, the header first; ``kind``: "facts" for a column of names and one of long texts."""
    lines = "".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(cell_text(cell))}</{tag}>" for cell in row) + "</tr>"
        for tag, row in [("th", rows[0]), *(("td", row) for row in rows[1:])]
    )
    return f'<div class="wide"><table class="{kind}">{lines}</table></div>'


def cell_text(value: Any) -> str:
    """A value as a reader wants it: what a mapping holds, name by name, without what it has no value for; the parts of
    a list; "none" where there is nothing."""
    if isinstance(value, Mapping):
        value = [f"{name} {cell_text(part)}" for name, part in value.items() if part is not None]
    if isinstance(value, list | tuple):
        return ", ".join(map(cell_text, value)) or "none"
    return "none" if value is None else str(value)


def picture(data: bytes, caption: str, *, broad: bool = False) -> str:
    """A PNG inside the page, with its caption below; a ``broad`` one is scrolled on narrow screens, not shrunk."""
    text, image = html.escape(caption), image_tag(data, caption)
    drawn = f'<div class="broad">{image}</div>' if broad else image
    return f"<figure>{drawn}<figcaption>{text}</figcaption></figure>"


def image_tag(data: bytes, says: str) -> str:
    """A PNG inside the page; ``says`` stands for it where it cannot be seen."""
    return f'<img alt="{html.escape(says)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def items(texts: Sequence[str]) -> str:
    """A list of lines of text."""
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"
