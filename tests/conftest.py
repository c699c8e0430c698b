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


# Two workers with two threads each, on two cores: threads that spin while they wait for the others cost a test of
# 0.2 s up to 10 s. Read when PyTorch is imported; programs that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="gala-tests-")  # what tests train with is not the user's
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _nothing_outlives_its_test():
    yield
    if (training := sys.modules.get("training")) is not None:
        training.kill_marked()
