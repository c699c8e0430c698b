"""Every setting says what it means: `gala train --help` and the reference show what stands under it."""

import ast
import inspect
import itertools
from dataclasses import dataclass, fields, is_dataclass

import pytest

from gala.config.schema import Config
from gala.config.supervised import SupervisedConfig
from gala.config.video import VideoConfig


def without_text(kind):
    """Names of the settings of a dataclass, and of those in it, with no string literal under them."""
    tree = ast.parse(inspect.getsource(kind)).body[0].body
    told = {
        line.target.id
        for line, below in itertools.pairwise(tree)
        if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr) and str(below.value.value).strip()
    }
    missing = []
    for field in fields(kind):
        inner = field.default_factory
        if is_dataclass(inner):
            missing += [f"{field.name}.{name}" for name in without_text(inner)]
        elif field.name not in told:
            missing.append(field.name)
    return missing


@pytest.mark.parametrize("kind", [Config, SupervisedConfig, VideoConfig])
def test_every_setting_has_a_text(kind):
    assert without_text(kind) == []


@dataclass
class Untold:
    told: int = 1
    """A text."""
    untold: int = 2


def test_a_setting_without_a_text_is_found():
    assert without_text(Untold) == ["untold"]
