"""What errors say is to be typed where an extra is missing: it must be what the distribution itself asks for."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from gala.commands import doctor
from gala.config.extras import install

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("quote", ["'", '"'])
def test_the_packages_of_the_extra_are_named_and_no_others(monkeypatch, quote):
    lines = [f"{need}; extra == {quote}{extra}{quote}" for extra, needs in EXTRAS.items() for need in needs]
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2.9", *lines])
    for extra, needs in EXTRAS.items():
        assert re.findall(r"'([^']+)'", install(extra)) == needs and install(extra).startswith("pip install '")


def test_without_the_distribution_the_clone_is_named(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    for requires in (missing, lambda name: None):
        monkeypatch.setattr(metadata, "requires", requires)
        assert install("plot") == "pip install '.[plot]' in the clone of gala"


def test_the_doctor_looks_for_every_extra_of_those_who_use_gala():
    assert set(doctor.EXTRAS) == set(EXTRAS) - {"docs", "dev"}
    for extra, (_, package) in doctor.EXTRAS.items():
        assert any(re.match(rf"{package.lower()}\b", need.replace("_", "-")) for need in EXTRAS[extra])


def test_every_extra_that_the_code_names_is_there():
    named = {
        extra
        for path in (ROOT / "gala").rglob("*.py")
        for extra in re.findall(r"""\binstall\(["'](\w+)["']\)""", path.read_text())
    }
    assert named == {"cluster", "diagnose", "export", "hub", "plot", "supervised", "sweep", "track", "video"}
    assert named <= set(EXTRAS)
    assert not [path for path in (ROOT / "gala").rglob("*.py") if "gala-rl[" in path.read_text()]
