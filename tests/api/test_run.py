"""One training of two learners, called from Python, and what there is to see of it."""

import dataclasses
import json
import math
import threading
import time

import numpy as np
import pytest
import torch
from test_evaluate import make_run
from training import PATIENCE_S, TINY

import gala
from gala.api.run import flat_numbers
from gala.api.train import words_of
from gala.config.parse import parse_config
from gala.evaluation.evaluate import evaluate_run
from gala.plugins import loading
from gala.runs.run_dir import RunDir

SETTINGS = dict(word.split("=", 1) for word in TINY)


def short(path, **more):
    return {**SETTINGS, "run": path, "learners": 2, **more}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run, the records and the checkpoints that the callbacks were told, the thread that they were called in)."""
    records, paths, threads = [], [], set()

    def on_record(record):
        records.append(record)
        threads.add(threading.current_thread())

    def on_checkpoint(path):
        assert (path / "meta.json").is_file()
        paths.append(path)

    path = tmp_path_factory.mktemp("api") / "run"
    settings = short(path, steps=1200, **{"log.interval_s": 0.05, "normalize": {"obs": True}})
    run = gala.train(on_record=on_record, on_checkpoint=on_checkpoint, **settings)
    return run, records, paths, threads


def test_the_callbacks_are_told_all_records_and_checkpoints_in_the_callers_thread(trained):
    run, records, paths, threads = trained
    assert threads == {threading.main_thread()}
    kept = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert len(kept) >= 2 and json.loads(json.dumps(_no_nans(records))) == kept
    assert paths[-1].resolve() == (run.path / "checkpoints" / "latest").resolve()
    told = {path.name for path in paths}  # the last one is a milestone's, if all finish while it is being asked for
    assert told <= set(run.checkpoints) <= told | {"latest"}


def _no_nans(value):
    if isinstance(value, list):
        return [_no_nans(item) for item in value]
    if isinstance(value, dict):
        return {key: _no_nans(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def test_a_run_knows_its_settings_its_end_and_its_numbers(trained):
    run, records, _, _ = trained
    again = gala.Run(str(run.path))
    assert again.path == run.path and again.config == run.config
    assert run.config.learners == 2 and run.config.normalize.obs and run.config.model.hidden == (8,)
    assert run.summary["status"] == "finished" and run.summary["env_steps"] >= 1200
    assert repr(run) == (
        f"<gala.Run {str(run.path)!r}: helper_envs:Walk-v0, algo=gala, learners=2, finished, "
        f"{run.summary['env_steps']:,} env_steps>"
    )
    assert (run.path / "command.txt").read_text().startswith("gala train preset=classic/cartpole ")
    columns = run.metrics()
    for name in ("global_step", "gossip/weight_min", "learner1/updates", "learner0/charts/SPS", "message_ages/0"):
        column = columns[name]
        assert column.shape == (len(records),) and column.dtype == np.float64
        for value, record in zip(column, records, strict=True):
            inner = record
            if name.startswith(("learner", "message_ages")):
                group, name_inside = name.split("/", 1)
                value_there = record.get(group, {}).get(name_inside)
            else:
                value_there = inner.get(name)
            assert value == value_there or (math.isnan(value) and value_there is None)
    assert (np.diff(columns["global_step"]) >= 0).all()


def test_a_number_that_is_missing_or_not_finite_is_nan(tmp_path):
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1")
    lines = [{"global_step": 1, "a": None, "learner0": {"b": 2}}, {"global_step": 5, "a": 3.5, "note": "x", "l": [1]}]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = gala.Run(run.path).metrics()
    assert list(columns) == ["global_step", "a", "learner0/b"]
    np.testing.assert_array_equal(columns["a"], [np.nan, 3.5])
    np.testing.assert_array_equal(columns["learner0/b"], [2.0, np.nan])
    assert flat_numbers({}) == {} and gala.Run(run.path).metrics()["global_step"].tolist() == [1.0, 5.0]


def test_a_run_that_has_not_ended_has_no_summary_and_one_that_never_was_is_refused(tmp_path):
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1")
    with pytest.raises(ValueError, match="has no summary: it is still training, or was killed"):
        _ = gala.Run(run.path).summary
    assert repr(gala.Run(run.path)).endswith("not ended>")
    with pytest.raises(ValueError, match="is not a run directory"):
        gala.Run(tmp_path)


def test_an_evaluation_is_that_of_the_command_and_does_not_change(trained):
    run = trained[0]
    scores = run.evaluate(episodes=5, mode="greedy", seed=3, learner=1)
    expected = evaluate_run(RunDir.open(run.path), episodes=5, mode="greedy", seed=3, learner=1)
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(scores).items()} == expected
    assert isinstance(scores, gala.Evaluation) and len(scores.returns) == 5 and scores.length_mean == 20
    assert scores.return_ci95[0] <= scores.return_mean <= scores.return_ci95[1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores.return_mean = 0.0


@pytest.mark.parametrize(("name", "number"), [("episodes", 2.5), ("episodes", "x"), ("episodes", True), ("seed", 1.0)])
def test_an_evaluation_of_no_whole_number_is_refused(trained, name, number):
    with pytest.raises(ValueError, match=f"{name}={number!r} must be a whole number"):
        trained[0].evaluate(**{name: number})


def test_a_loaded_agent_plays_as_the_evaluation_did(trained):
    run = trained[0]
    env = __import__("helper_envs").Walk()
    agent, returns = run.load(), []
    from gala_envs.contract import row_seeds

    for seed in row_seeds(7, 3):
        obs, _ = env.reset(seed=seed)
        over, total = False, 0.0
        while not over:
            obs, reward, terminated, truncated, _ = env.step(agent.act(obs))
            over, total = terminated or truncated, total + reward
        returns.append(total)
    assert tuple(returns) == run.evaluate(episodes=3, mode="greedy", seed=7).returns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "episodes=0 must be at least 1"),
        ({"mode": "best"}, "mode=best: wants greedy or sampled"),
        ({"mode": "both"}, "mode=both: wants greedy or sampled"),
        ({"learner": 9}, "learner=9: wants consensus or one of 0, 1"),
        ({"learner": True}, "learner=True: wants consensus or one of 0, 1"),
        ({"learner": 1.0}, "learner=1.0: wants consensus or one of 0, 1"),
        ({"checkpoint": "bst"}, "has no checkpoint 'bst'"),
        ({"seed": -1}, "seed=-1 must be 0 or more"),
        ({"video": "a.gif"}, "video=a.gif must end in .mp4"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        trained[0].evaluate(**arguments)
    if set(arguments) <= {"learner", "checkpoint"}:
        with pytest.raises(ValueError, match=message):
            trained[0].load(**arguments)


def test_settings_are_those_of_the_command_line():
    nested = {
        "preset": "classic/cartpole",
        "optim": {"lr": 1e-3, "name": torch.optim.AdamW},
        "a2c.gamma": np.float32(0.5),
        "model": {"hidden": (32, 16), "separate_critic": False},
        "steps": 2e6,
        "seed": np.int64(4),
        "topology": "complete",
    }
    words = [
        *("preset=classic/cartpole", "optim.lr=1e-3", "optim.name=torch.optim.adamw:AdamW", "a2c.gamma=0.5"),
        *("model.hidden=32,16", "model.separate_critic=false", "steps=2e6", "seed=4", "gossip.topology=complete"),
    ]
    assert parse_config(words_of(nested)) == parse_config(words)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "classic/cartpol"}, "unknown preset 'classic/cartpol'; `gala presets` lists them; did you mean"),
        ({"lerners": 2}, "unknown setting 'lerners'; did you mean 'learners'?"),
        ({"optim": {"learning_rate": 1}}, "unknown setting 'optim.learning_rate'"),
        ({"optim.lr": "fast"}, "optim.lr=fast: wants a number"),
        ({"learners": 0}, "learners=0 must be at least 1"),
        ({"steps": 2.5}, "steps=2.5: wants a whole number"),
        ({"seed": None}, "seed=None: a setting is a number, a text, true or false, or a list of these"),
        ({"a2c.gamma": float("nan")}, "a2c.gamma=nan must be a finite number"),
        ({"env": {"id": "CartPoel-v1"}}, "unknown environment 'CartPoel-v1'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(tmp_path, settings, message):
    with pytest.raises(ValueError) as caught:
        gala.train(**settings, run=tmp_path / "run")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_callback_that_takes_long_holds_nobody_up_and_ends_the_run_with_false(tmp_path):
    """While the first call lasts, the parent logs and takes checkpoints, and no learner is declared dead."""
    path, told = tmp_path / "run", []

    def slow(record):
        told.append(record["global_step"])
        deadline = time.monotonic() + PATIENCE_S
        while len(told) == 1 and time.monotonic() < deadline:
            lines = (path / "metrics.jsonl").read_text().count("\n")
            run = RunDir.open(path)
            if lines >= 5 and "latest" in run.checkpoints.names():
                assert run.checkpoint_meta("latest")["ranks"] == [0, 1]
                return None
            time.sleep(0.01)
        return len(told) < 5

    run = gala.train(**short(path, **{"log.checkpoint_interval_s": 0.1, "log.interval_s": 0.1}), on_record=slow)
    assert run.summary["status"] == "stopped" and run.summary["failures"] == []
    assert run.summary["stopped_by"] == "on_record has returned False"
    steps = run.metrics()["global_step"]
    assert told == steps[:5].tolist()  # also those that had to wait, in order; none after it has returned False
    assert len(steps) > 5, "the record at the end of the run"
    assert run.summary["env_steps"] < 1e9 and RunDir.open(path).checkpoint_meta("latest")["env_steps"] == steps[-1]


def test_an_exception_in_a_callback_is_raised_after_a_checkpoint_also_in_another_thread(tmp_path):
    raised, called = [], []

    def broken(path):
        called.append(path)
        raise LookupError("this callback is broken")

    def train():
        try:
            gala.train(**short(tmp_path / "run", **{"log.checkpoint_interval_s": 0.1}), on_checkpoint=broken)
        except LookupError as error:
            raised.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join(PATIENCE_S)
    assert len(raised) == 1 and len(called) == 1
    names = [frame.name for frame in _frames(raised[0])]
    assert names[-1] == "broken"
    run = gala.Run(tmp_path / "run")
    assert run.summary["status"] == "stopped" and "latest" in run.checkpoints
    assert run.summary["stopped_by"] == "on_checkpoint has raised LookupError"
    assert RunDir.open(run.path).checkpoint_meta("latest")["env_steps"] == run.summary["env_steps"]


def _frames(error):
    import traceback

    return traceback.extract_tb(error.__traceback__)


def test_a_failed_training_raises_what_the_command_prints(tmp_path):
    settings = short(tmp_path / "run", env={"id": "helper_envs:Raises-v0"}, on_failure="stop")
    with pytest.raises(gala.RunFailed) as caught:
        gala.train(**settings)
    text = str(caught.value)
    assert "learner" in text and "the run has ended." in text and "KeyError: 'the simulator broke'" in text
    assert gala.Run(tmp_path / "run").summary["status"] == "failed"


def test_a_script_that_is_being_imported_does_not_train():
    token = loading._being_imported.set("a module")
    try:
        with pytest.raises(loading.TrainsWhenImported):
            gala.train("classic/cartpole")
    finally:
        loading._being_imported.reset(token)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"on_record": 3}, "on_record=3 must be a function"),
        ({"on_checkpoint": "x"}, "on_checkpoint='x' must be a function"),
        ({"optim": {3: 3}}, "optim.3 is not the name of a setting"),
        ({"optim": 3}, "optim is a group of settings: optim.name, optim.lr"),
    ],
)
def test_what_cannot_be_called_or_named_is_refused_before_anything_starts(tmp_path, settings, error):
    with pytest.raises(ValueError, match=error):
        gala.train("classic/cartpole", run=str(tmp_path / "run"), **settings)
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot make the run directory .*: Not a directory; give another run="):
        gala.train("classic/cartpole", run=str(tmp_path / "file" / "run"))
