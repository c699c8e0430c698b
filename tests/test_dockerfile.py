"""The Dockerfile, which is not built here: it copies what the package is made of, and installs the tests' versions."""

from __future__ import annotations

import re
import shlex
import tomllib

import pytest
from documents import ROOT

TEXT = (ROOT / "Dockerfile").read_text()
LINES = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def copied() -> set[str]:
    return {word for line in LINES if line.startswith("COPY ") for word in shlex.split(line)[1:-1]}


def test_it_copies_all_that_the_wheel_is_made_of_and_that_is_there():
    built = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {path.split("/")[0] for path in (*built["packages"], *built["force-include"])}
    wanted |= {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml", "constraints.txt"}
    assert copied() == wanted
    assert all((ROOT / path).exists() for path in wanted)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == wanted, "what is copied must not be ignored"


def test_it_installs_the_versions_of_the_tests_and_extras_that_exist():
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert re.findall(r"torch==(\S+)", TEXT) == [pinned["torch"]]
    assert all("-c constraints.txt" in line for line in LINES if "pip install" in line)
    extras = re.search(r"^ARG EXTRAS=(\S+)$", TEXT, re.MULTILINE)
    assert extras is not None and set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert 'ENTRYPOINT ["gala"]' in LINES and "gala" in PROJECT["project"]["scripts"]


@pytest.mark.parametrize("line", re.findall(r"docker (?:build|run).*", (ROOT / "docs/howto/install.md").read_text()))
def test_the_documented_lines_are_those_at_its_head(line):
    assert line in TEXT
