"""The frame of a page: one file that opens without a network, light or dark as the reader has it, from 500 px on."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
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
h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.15rem; margin-bottom: .2rem }}
.wide {{ overflow-x: auto; margin: .5rem 0 1rem }}
table {{ border-collapse: collapse; font-size: 14px }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
.facts th {{ text-align: left }}
.facts td {{ white-space: normal; text-align: left; vertical-align: top }}
.facts td:first-child {{ overflow-wrap: normal; min-width: 6rem }}
.figures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem }}
figure {{ margin: 0 }} figcaption {{ font-size: 13px; color: var(--open) }}
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
        "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row) + "</tr>"
        for tag, row in [("th", rows[0]), *(("td", row) for row in rows[1:])]
    )
    return f'<div class="wide"><table class="{kind}">{lines}</table></div>'


def picture(data: bytes, caption: str) -> str:
    """A PNG inside the page, with its caption below."""
    text, code = html.escape(caption), base64.b64encode(data).decode()
    return f'<figure><img alt="{text}" src="data:image/png;base64,{code}"><figcaption>{text}</figcaption></figure>'


def items(texts: Sequence[str]) -> str:
    """A list of lines of text."""
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"
