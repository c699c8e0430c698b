"""A test ends what it started, also when it fails."""

import atexit
import os
import shutil
import sys
import tempfile

import hypothesis
import pytest

hypothesis.settings.register_profile("gala", deadline=None)  # no test depends on how fast the machine is
hypothesis.settings.load_profile("gala")


os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="gala-tests-")  # what tests train with is not the user's
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _nothing_outlives_its_test():
    yield
    if (training := sys.modules.get("training")) is not None:
        training.kill_marked()
