"""Asynchronous runs, recorded and replayed: the run itself is the oracle, to the last bit."""

import shutil

import pytest

from gala import cli
from gala.gossip.record import read_record, record_path
from gala.runs.run_dir import RunDir
from gala.training.replay import check_replayable, replay

WORDS = [
    "learners=3",
    "envs_per_learner=4",
    "model.hidden=16",
    "torch_threads=1",
    "gossip.record=true",
    "log.panel=off",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """With all at once: normalisers that pool whenever they come by, schedules that follow all learners' steps,
    checkpoints on the way, random peers, slow momentum, and a straggler in whose boxes messages add up."""
    path = tmp_path_factory.mktemp("recorded") / "run"
    words = [
        *("env.id=CartPole-v1", f"run={path}", "steps=15_000", *WORDS),
        *("normalize.obs=true", "normalize.reward=scale", "optim.schedule=linear", "log.checkpoint_interval_s=0.2"),
        *("topology=random-1", "slowmo.every=4", "delay.mean_s=0.0005", "delay.slow_learner=8"),
        *("gossip.tau=3", "gossip.at_bound=drop-peer", "gossip.max_unread_weight=2"),
    ]
    assert cli.main(["train", *words]) == 0
    return RunDir.open(path)


def test_every_learner_ends_where_it_ended(run, capsys):
    entries = [entry for rank in range(3) for entry in read_record(record_path(run.path, rank))]
    assert sum(entry[0] == "t" for entry in entries) > 10  # they have exchanged
    capsys.readouterr()
    assert cli.main(["replay", str(run.path)]) == 0
    assert capsys.readouterr().out.count("the same") == 3


def test_another_record_ends_elsewhere_or_is_refused(run, tmp_path):
    run = RunDir.open(shutil.copytree(run.path, tmp_path / "run", symlinks=True))
    path = record_path(run.path, 0)
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    take = next(i for i, line in enumerate(lines) if line.startswith("t"))
    path.write_text("".join(lines[:take] + lines[take + 1 :]))  # one message less
    was, now = zip(*replay(run), strict=True)
    assert was[0] != now[0]
    path.write_text(whole.replace(lines[take], f"{lines[take].rsplit(maxsplit=1)[0]} 9999\n", 1))
    with pytest.raises(ValueError, match=r"the record is incomplete: learner \d waits for"):
        replay(run)
    path.write_text("r\n" + whole)
    with pytest.raises(ValueError, match="was resumed, or joined later"):
        replay(run)
    path.write_text("p 1 much\n")
    with pytest.raises(ValueError, match="line 1: no entry of a record: 'p 1 much'"):
        replay(run)
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("record: true", "record: false"))
    with pytest.raises(ValueError, match=r"train with gossip\.record=true"):
        check_replayable(RunDir.open(run.path))


@pytest.mark.parametrize(
    "words",
    [
        ["learners=1"],
        ["algo=independent"],
        ["gossip.tau=0"],
        ["gossip.mixing=copy-average"],
        ["gossip.shards=2"],
        ["gossip.overlap=true"],
        ["cluster.address=local"],
    ],
)
def test_what_cannot_be_recorded_is_refused_in_one_line(tmp_path, capsys, words):
    assert cli.main(["train", f"run={tmp_path / 'run'}", *WORDS, *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "gossip.record" in err
