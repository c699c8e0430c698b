"""A test ends what it started, also when it fails."""

import sys

import hypothesis
import pytest

hypothesis.settings.register_profile("gala", deadline=None)  # no test depends on how fast the machine is
hypothesis.settings.load_profile("gala")


@pytest.fixture(autouse=True)
def _nothing_outlives_its_test():
    yield
    if (training := sys.modules.get("training")) is not None:
        training.kill_marked()
