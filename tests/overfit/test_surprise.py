"""``gala overfit report STUDY surprise=VIDEO_RUN``: rows of every MDP, and the interval's formula."""

import json
import math
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
from test_evaluate import make_run

from gala import cli
from gala.commands.overfit import surprise as surprise_command
from gala.commands.overfit.surprise import _play, measure
from gala.config.schema import Config
from gala.diagnostics.overfitting.surprise import summarise, told
from gala.experiments.statistics import Interval
from gala.overfit.study import Study, describe_sets, read_sets
from gala.runs.rollouts import open_rollouts
from gala.runs.run_dir import RunDir


def test_the_interval_is_welchs_over_contexts():
    rng = np.random.default_rng(0)
    values = {"train": rng.normal(1, 1, 6), "test": rng.normal(3, 2, 30)}
    rows = [
        {"set": name, "context": str(k), "nats": x + shift}  # two episodes of each, whose mean counts once
        for name, xs in values.items()
        for k, x in enumerate(xs)
        for shift in (-0.5, 0.5)
    ]
    surprise = summarise(rows)
    stats = pytest.importorskip("scipy.stats")
    expected = stats.ttest_ind(values["test"], values["train"], equal_var=False).confidence_interval(0.95)
    assert surprise.gap.estimate == pytest.approx(values["test"].mean() - values["train"].mean())
    assert surprise.gap.low == pytest.approx(expected.low, rel=0.02)  # degrees of freedom are rounded down: wider
    assert surprise.gap.low <= expected.low and surprise.gap.high >= expected.high
    assert summarise(rows[:2]) is None and summarise([]) is None
    assert "is new" in told(surprise, Interval(-1, 0, 1))
    none = surprise._replace(gap=Interval(-0.1, 0, 0.1))
    assert "yet the policy earns less" in told(none, Interval(0.1, 0.2, 0.3))
    assert "yet" not in told(none, Interval(-0.1, 0.2, 0.3))


def test_trust_and_the_sets_are_passed_on(tmp_path, monkeypatch):
    seen = {}
    source = {"run": "run", "checkpoint": "latest", "checkpoint_sha256": ""}
    rollouts = SimpleNamespace(facts=SimpleNamespace(source=source))
    monkeypatch.setattr(surprise_command, "read_settings", lambda path: SimpleNamespace(data="data"))
    monkeypatch.setattr(surprise_command, "find_data", lambda path, video, remedy: video)
    monkeypatch.setattr(surprise_command, "open_rollouts", lambda data: rollouts)
    monkeypatch.setattr(surprise_command, "read_sets", lambda folder, *, trust=False: seen.update(trust=trust))
    monkeypatch.setattr(surprise_command.RunDir, "open", lambda path: SimpleNamespace(path=path, config=Config()))
    monkeypatch.setattr("gala.commands.trusted.named_code", lambda config: {"theirs:Net"})
    monkeypatch.setattr("gala.commands.trusted.check_trusted", lambda *_, trust, remedy: seen.update(remedy=remedy))
    monkeypatch.setattr(surprise_command, "checkpoint_hash", lambda run, checkpoint: "another")
    with pytest.raises(ValueError, match="has changed since"):
        measure(Study(tmp_path, {}), tmp_path / "video", "other sets", trust=True)
    words = ["gala", "overfit", "report", str(tmp_path), f"surprise={tmp_path / 'video'}", "sets=other sets"]
    assert seen == {"trust": True, "remedy": shlex.join([*words, "trust=true"])}


@pytest.mark.long
def test_every_mdp_of_both_sets_is_looked_at_and_what_does_not_belong_is_refused(tmp_path, monkeypatch):
    sets, out = tmp_path / "sets", tmp_path / "rollouts"
    assert cli.main(["overfit", "split", "maze", "train=3", "test=4", "size=5", f"out={sets}"]) == 0
    words = ("env.id=maze", f"env.contexts={sets}/train.json", "env.max_episode_steps=9")
    run, _ = make_run(tmp_path / "run", *words)
    uids = {name: set(contexts.uids) for name, contexts in read_sets(sets).items()}
    part, meta = run.load_part("latest", "learner0")
    run.write_part("staging", "learner0", part, meta | {"contexts": dict.fromkeys(uids["train"], 1)})
    run.commit_checkpoint("staging", ["latest"], {"env_steps": 1, "ranks": [0], "moments": []})
    assert cli.main(["record", str(run.path), "episodes=20", "env.max_episode_steps=6", f"out={out}"]) == 0
    model = ("frames=4", "context=1", "scales=1", "levels=1", "width=4", "latent=1", "batch_size=2", "iterations=1")
    assert cli.main(["video", "train", f"data={out}", *model, f"out={tmp_path / 'video'}"]) == 0
    study = Study(tmp_path / "study", {"sets": describe_sets(read_sets(sets))})
    rows = measure(study, tmp_path / "video", str(sets), trust=False)
    assert {name: {r["context"] for r in rows if r["set"] == name} for name in uids} == uids
    per_set = {name: sum(r["set"] == name for r in rows) for name in uids}
    with monkeypatch.context() as patch:  # one window at a time: the same episodes, all of their frames
        patch.setattr(surprise_command, "WINDOWS", 1)
        one_by_one = measure(study, tmp_path / "video", str(sets), trust=False)
    assert [(r["context"], r["frames"]) for r in one_by_one] == [(r["context"], r["frames"]) for r in rows]
    assert max(r["frames"] for r in rows) == 6  # of 7 in an episode, as recorded; of the run's own limit there were 9
    assert 45 <= per_set["train"] <= 51 and 45 <= per_set["test"] <= 52  # 50 and more, but for the shortest episodes
    # A model that has hardly begun says nearly a coin for each pixel, whatever the MDP is.
    facts = open_rollouts(out).facts
    coin = math.prod(facts.frame) * math.log(2)
    nats = [r["nats"] for r in rows]
    assert 0.9 * coin < min(nats) and max(nats) < 1.2 * coin
    assert {r["frames"] for r in rows} <= {3, 6, 9}
    played = _play(RunDir.open(run.path), facts, sets / "test.json", read_sets(sets)["test"])
    assert np.bincount(played.context[played.first]).tolist() == [13] * 4
    again = measure(study, tmp_path / "video", str(sets), trust=False)
    assert json.dumps(rows) == json.dumps(again)
    other = Study(tmp_path / "study", {"sets": {"train": {"sha256": "0" * 64}}})
    with pytest.raises(ValueError, match="is another train set"):
        measure(other, tmp_path / "video", str(sets), trust=False)

    assert (
        cli.main(["record", str(run.path), "episodes=5", f"env.contexts={sets}/test.json", f"out={tmp_path / 't'}"])
        == 0
    )
    config = (tmp_path / "video" / "config.yaml").read_text()
    (tmp_path / "video" / "config.yaml").write_text(config.replace(str(out), str(tmp_path / "t")))
    with pytest.raises(ValueError, match=r"t has changed since .*video began"):
        measure(study, tmp_path / "video", str(sets), trust=False)
    kept = (tmp_path / "video" / "data.json").read_text()
    (tmp_path / "video" / "data.json").unlink()
    with pytest.raises(ValueError, match="MDPs outside the train set"):
        measure(study, tmp_path / "video", str(sets), trust=False)
    (tmp_path / "video" / "config.yaml").write_text(config)
    (tmp_path / "video" / "data.json").write_text(kept)
    part["policy"] = {name: x + 1 for name, x in part["policy"].items()}
    run.write_part("staging", "learner0", part, meta)
    run.commit_checkpoint("staging", ["latest"], {"env_steps": 1, "ranks": [0], "moments": []})
    with pytest.raises(ValueError, match="has changed since"):
        measure(study, tmp_path / "video", str(sets), trust=False)
