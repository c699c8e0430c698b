"""A test ends what it started, also when it fails."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _nothing_outlives_its_test():
    yield
    if (training := sys.modules.get("training")) is not None:
        training.kill_marked()
