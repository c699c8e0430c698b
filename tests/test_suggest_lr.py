"""``gala suggest-lr``: what it prints is what the rules give, and the command that it prints trains that."""

import dataclasses
import json
import math
import shlex
import shutil
import signal

import numpy as np
import pytest
import torch
from training import TINY, Gala, parts

from gala import cli
from gala.build.learning import learning_rate
from gala.commands.suggest_lr import _curvature_text
from gala.config.parse import parse_config
from gala.config.schema import NormalizeConfig
from gala.diagnostics.lr_evidence import measure
from gala.evaluation.frozen import load_frozen
from gala.evaluation.load import pooled_return_moments
from gala.optim.lr_scaling import suggest
from gala.rl.normalise import RunningMoments
from gala.runs.run_dir import RunDir

QUICK = ("sims=4", "batches=3")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("suggest") / "run"
    scaled = ("optim.lr_scaling=sqrt", "gossip.lr_scaling=sqrt")
    assert Gala(path, *TINY, "algo=gala", "learners=2", "steps=1_000", *scaled).end()[0] == 0
    return path


def test_a_run_with_more_learners(run, capsys):
    assert cli.main(["suggest-lr", str(run), "learners=8", "envs=6", *QUICK, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    frozen = load_frozen(RunDir.open(run), "latest", envs=4, batches=3, seed=1000)
    evidence = measure(frozen)
    known = learning_rate(frozen.config)(0.0)
    assert known == pytest.approx(3e-3 * (4 / 16) ** 0.5 * 2**0.5), "the preset's, for 2 learners with 2 x 2 simulators"
    beta1 = frozen.config.optim.adam_beta1
    limit = 2 * (1 + beta1) / (1 - beta1)
    as_eight = known * (8 / 2) ** 0.5
    found = suggest(as_eight, 4, 48, "sqrt", evidence.noise_scale, evidence.sharpness, limit)
    assert told["lr"] == pytest.approx(found.lr) and told["decided_by"] == found.decided_by
    assert (told["known_envs"], told["envs"], told["rule"]) == (4, 48, "sqrt")
    typed = parse_config(shlex.split(told["command"])[2:])
    assert learning_rate(typed)(0.0) == pytest.approx(found.lr, rel=5e-3)
    optim = dataclasses.replace(frozen.config.optim, lr=typed.optim.lr, lr_scaling="none")
    gossip = dataclasses.replace(frozen.config.gossip, lr_scaling="none")
    wanted = dataclasses.replace(frozen.config, learners=8, envs_per_learner=6, optim=optim, gossip=gossip)
    assert dataclasses.replace(typed, run="", preset="") == dataclasses.replace(wanted, run="", preset="")
    assert cli.main(["suggest-lr", str(run), "learners=8", *QUICK]) == 0
    *lines, blank, command = capsys.readouterr().out.splitlines()
    assert blank == "" and command.startswith("gala train ") and all(len(line) <= 80 for line in lines)
    assert {line.split()[0] for line in lines if line[0] != " "} >= {"rule", "noise", "curvature", "suggested"}


def changed(run, **settings):
    """The run, as if it had been trained with other settings."""
    run_dir = RunDir.open(run)
    run_dir.config = dataclasses.replace(run_dir.config, **settings)
    return run_dir


@pytest.mark.parametrize(("begin", "end", "left"), [(0, 0, 0.0), (0, 4_000, 0.75), (500, 2_500, 0.75)])
def test_schedules_stand_where_they_stood_in_the_training(run, begin, end, left):
    """Of a run that was resumed with a longer or a new schedule, after 1,000 env_steps."""
    run_dir = changed(run, schedule_from=begin, schedule_to=end)
    start = learning_rate(run_dir.config)(0.0)
    frozen = load_frozen(run_dir, "latest", envs=2, batches=1, seed=1)
    assert frozen.lr == pytest.approx(start * (left or 1.0), rel=1e-2)
    assert frozen.entropy_coef == pytest.approx(frozen.config.a2c.entropy_coef * left, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "known"), [("torch.optim:AdamW", False), ("ekfac", False), ("torch.optim:SGD", True), ("adam", True)]
)
def test_the_curvature_of_an_optimiser_that_scales_in_its_own_way_is_not_known(run, name, known):
    frozen = load_frozen(RunDir.open(run), "latest", envs=2, batches=2, seed=1)
    optim = dataclasses.replace(frozen.config.optim, name=name)
    config = dataclasses.replace(frozen.config, optim=optim)
    found = measure(dataclasses.replace(frozen, config=config, scale=frozen.scale if name == "adam" else None))
    assert math.isfinite(found.sharpness) == known
    told = _curvature_text(config, found, suggest(0.01, 4, 8, "sqrt"))
    assert ("not known" in told or "not asked" in told) != known


def test_a_learner_that_made_no_update_lends_its_optimiser_to_nobody(run, tmp_path):
    """As in a short run whose other learner was still starting."""
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    run_dir = RunDir.open(tmp_path / "run")
    meta = run_dir.checkpoint_meta("latest")
    for rank in meta["ranks"]:
        tensors, about = run_dir.load_part("latest", f"learner{rank}")
        if rank == 0:
            tensors["optimizer"] = {name: torch.zeros_like(value) for name, value in tensors["optimizer"].items()}
            meta["progress"][0] = [0, 0]
        run_dir.write_part("staging", f"learner{rank}", tensors, about)
    run_dir.commit_checkpoint("staging", ["latest"], meta)
    frozen = load_frozen(run_dir, "latest", envs=2, batches=1, seed=1)
    assert frozen.scale is not None and frozen.scale.max() > 2 * frozen.config.optim.eps


def test_rewards_are_scaled_by_the_returns_of_all_learners_that_average(run):
    run_dir = RunDir.open(run)
    moments = [p["return_moments"]["packed"].numpy() for p, _ in parts(run_dir)]
    everyone = RunningMoments.pooled(np.stack(moments), ())
    meta = run_dir.checkpoint_meta("latest")
    each = {rank: {"return_moments": {"packed": torch.from_numpy(m)}} for rank, m in enumerate(moments)}
    assert pooled_return_moments(meta, each, True).std == pytest.approx(everyone.std)
    assert pooled_return_moments({"moments": []}, {0: each[0]}, False).std == RunningMoments.unpack(moments[0], ()).std
    gone = {"moments": [[9.0], [0.5, 0.5, *moments[1]]]}  # a learner that has left, with another normaliser's before
    assert pooled_return_moments(gone, {0: each[0]}, True).std == pytest.approx(everyone.std)
    frozen = load_frozen(changed(run, normalize=NormalizeConfig(reward="scale")), "latest", envs=2, batches=1, seed=1)
    reward = load_frozen(changed(run, normalize=NormalizeConfig(reward="none")), "latest", envs=2, batches=1, seed=1)
    raw = reward.rollouts[0].reward
    torch.testing.assert_close(frozen.rollouts[0].reward, raw / float(everyone.std), rtol=1e-4, atol=1e-6)


def test_a_signal_ends_it_in_order_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("gala.experiments.jobs.train_all", lambda *args: signal.raise_signal(signal.SIGTERM))

    def nobody_listens(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, nobody_listens)
    try:
        assert cli.main(["suggest-lr", "preset=classic/cartpole", "learners=2"]) == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_preset_is_trained_for_a_moment_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    words = ["preset=classic/cartpole", "optim.lr=2e-3", "learners=4", "measure_steps=500", *QUICK]
    assert cli.main(["suggest-lr", *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["known_lr"] == 2e-3 and told["by_rule"] == pytest.approx(4e-3) and told["lr"] <= 4e-3
    assert "learners=4" in told["command"] and "optim.lr=2e-3" in told["command"]
    assert parse_config(shlex.split(told["command"])[2:]).optim.lr == pytest.approx(told["lr"], rel=5e-3)
    assert not [path for path in tmp_path.iterdir() if "gala-suggest-lr" in path.name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["preset=classic/cartpole"], "say what changes"),
        (["preset=classic/cartpole", "learners=1"], "is what there is"),
        (["preset=classic/cartpole", "learners=x"], "learners=x"),
        (["preset=classic/cartpol", "learners=2"], "cartpole"),
        (["preset=classic/cartpole", "learners=4", "algo=a2c"], "algo=a2c has one learner"),
        (["preset=classic/cartpole", "learners=4", "optim.lr=0"], "no learning rate"),
        (["preset=classic/cartpole", "learners=4", "batches=1"], "batches=1 must be at least 2"),
        (["preset=classic/cartpole", "envs=8", "envs_per_learner=8"], "give one"),
        (["nowhere/at-all", "learners=4"], "nowhere/at-all"),
        (["nowhere/at-all", "learners=4", "measure_steps=99"], "measure_steps=99: RUN has been trained"),
        (["preset=classic/cartpole", "learners=4", "checkpoint=best"], "checkpoint=best: there is no RUN"),
        (["nowhere/lr=0.1", "learners=4"], "nowhere/lr=0.1 is not a run directory"),
        (["--learners", "4", "nowhere/lr=0.1"], "nowhere/lr=0.1 is not a run directory"),
        (["nowhere/lr=0.1", "nowhere/lr=0.2", "learners=4"], "nowhere/lr=0.2: one RUN at a time"),
    ],
)
def test_refusals_are_one_line_before_anything_starts(words, message, capsys):
    assert cli.main(["suggest-lr", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


def test_a_run_has_its_settings_and_its_checkpoints(run, capsys):
    for words, message in ((["optim.lr=1"], "RUN has its settings"), (["checkpoint=worst"], "worst")):
        assert cli.main(["suggest-lr", str(run), "learners=4", *words]) == 2
        assert message in capsys.readouterr().err


def test_the_rule_that_is_printed_multiplies_to_its_result(run, capsys):
    """Also where learners that gossip have a factor of their own, which the line left out."""
    assert cli.main(["suggest-lr", str(run), "learners=4", *QUICK]) == 0
    told = " ".join(capsys.readouterr().out.split("rule", 1)[1].split("noise", 1)[0].split())
    product, result = told.partition(": ")[2].split(" = ")
    assert eval(product.replace("x", "*").replace("^", "**")) == pytest.approx(float(result), rel=1e-2)
