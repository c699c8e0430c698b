"""A test ends what it started, also when it fails."""

import atexit
import gc
import os
import shutil
import sys
import tempfile

import hypothesis
import pytest

hypothesis.settings.register_profile("gala", deadline=None)  # no test depends on how fast the machine is
hypothesis.settings.load_profile("gala")


# Workers with two threads each, on two cores: threads that spin while they wait for the others cost a test of
# 0.2 s up to 10 s. Read when PyTorch is imported; programs that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="gala-tests-")  # what tests train with is not the user's
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


SLOW = ("test_ray", "test_training", "test_overfit_judging", "test_resume", "test_examples", "test_atari", "test_runs")
SLOW += ("test_video", "test_exact_resume", "test_overfit_commands", "test_elasticity", "test_doors", "test_full_disk")
SLOW += ("test_common_start", "test_endings", "test_supervised_command")


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that at the end no worker waits for one: a worker gets whole files, in
    this order (`--no-loadscope-reorder`)."""
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else len(SLOW))


def pytest_collection_finish():
    """What has been imported stays: the collector need not look through it again and again, a tenth of all the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def _nothing_outlives_its_test():
    yield
    if (training := sys.modules.get("training")) is not None:
        training.kill_marked()
