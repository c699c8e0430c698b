"""What docs/generate.py makes of the repository, and that nothing of a page is fetched from anywhere."""

import dataclasses
import importlib.util
import json
import re

import pytest
from documents import PAGES, ROOT

from gala import cli
from gala.config.parse import COMMANDS
from gala.config.schema import flatten

spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)
GENERATED = {"docs/reference/settings.md", "docs/reference/commands.md"}


def test_every_setting_has_its_row_with_default_and_meaning():
    parts = re.split(r"^## gala [\w ]+$", generate.settings_page(), flags=re.M)[1:]
    rows, *others = (dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", part, re.M)) for part in parts)
    for cls, named in zip(COMMANDS, (rows, *others), strict=True):
        assert set(named) == set(flatten(cls()))
    default, values, meaning = rows["gossip.w_min"].split(" | ")
    assert (default, values) == ("`0.1`", "number, greater than 0 and below 1")
    assert meaning.startswith("A learner whose PushSum weight")
    assert rows["gossip.topology"].startswith("`ring` | text") and "`module:attribute`" in rows["optim.name"]
    assert rows["steps"].endswith("env_steps (agent decisions) over all learners.")


def test_a_string_below_a_field_is_its_meaning_alone():
    @dataclasses.dataclass
    class Two:
        """Not a meaning."""

        first: int = 1
        """Of the first."""
        second: int = 2

    assert generate.field_docs(Two) == {"first": "Of the first."}


def test_every_command_has_its_help():
    page = generate.commands_page()
    assert re.findall(r"^## gala ([\w-]+)$", page, re.M) == list(cli.COMMANDS)
    assert "usage: gala eval RUN" in page and "### gala overfit split" in page
    assert max(len(line) for line in page.splitlines() if not line.startswith(("What ", "|"))) <= 120


@pytest.mark.parametrize(
    ("link", "source", "uri", "wanted"),
    [
        ("docs/trust.md", "README.md", "index.md", "trust.md"),
        ("benchmarks/results/pong.png", "README.md", "index.md", "repo/benchmarks/results/pong.png"),
        ("../benchmarks/results/pong.png", "docs/evidence.md", "evidence.md", "repo/benchmarks/results/pong.png"),
        ("../../examples/a.py", "docs/howto/x.md", "howto/x.md", "../repo/examples/a.py"),
        ("../trust.md#runs", "docs/howto/x.md", "howto/x.md", "../trust.md#runs"),
        ("../README.md", "docs/trust.md", "trust.md", "index.md"),
        ("https://example.org/a", "README.md", "index.md", "https://example.org/a"),
        ("#start", "README.md", "index.md", "#start"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(link, source, uri, wanted):
    assert generate.relink(f"see [it]({link}), and\n", source, uri) == f"see [it]({wanted}), and\n"


def test_links_in_code_stay():
    text = "```text\n[a](docs/trust.md)\n```\n"
    assert generate.relink(text, "README.md", "index.md") == text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_to_a_file_of_the_repository(path):
    """As read on a code host, without the site."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        found = (path.parent / target).resolve()
        assert found.exists() or found.relative_to(ROOT).as_posix() in GENERATED, target


def test_the_machines_of_all_results_are_named():
    table = generate.machines_table().splitlines()[2:]
    assert len(table) == len(list((ROOT / "benchmarks" / "results").rglob("*.jsonl")))
    with (ROOT / "benchmarks" / "results" / "gossip_cost.jsonl").open() as file:
        machine = json.loads(next(file))["machine"]
    named = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    assert any("benchmarks/gossip_cost.py" in row and named in row for row in table)


def test_the_build_counts_warnings():
    """MkDocs with --quiet counts none, and --strict then passes whatever is wrong."""
    (line,) = re.findall(r"mkdocs build (.+)", (ROOT / "Makefile").read_text())
    assert "--strict" in line and "--quiet" not in line and "-q" not in line.split()
    assert re.search(r"^make .*\bdocs\b", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_the_site_asks_nobody_for_fonts_or_scripts():
    text = (ROOT / "mkdocs.yml").read_text()
    assert re.search(r"^  font: false$", text, re.M) and re.search(r"^  - offline$", text, re.M)
    assert "polyfills: [assets/iframe-worker.js]" in text and not re.search(r"https?://", text)
