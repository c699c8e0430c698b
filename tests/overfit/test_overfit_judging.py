"""Whom ``gala overfit`` judges, against what, and in which environments; with runs that were never trained."""

import json
import re
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gala_envs.contexts import ContextSet
from gala_envs.families import make_family
from gala_envs.splits import split
from test_evaluate import make_run

from gala.cli import main
from gala.commands.overfit import judged
from gala.config.parse import load_config
from gala.config.schema import Config
from gala.evaluation.load import return_moments, return_scale
from gala.files.whole import write_atomically
from gala.overfit.judging import baselines, check_reference, env_options, episodes_each, judge, load_agent
from gala.overfit.leakage import check_reference_run
from gala.overfit.options import JudgeOptions, SweepOptions
from gala.overfit.reference import check_reference_folder, reference_folder, with_reference, write_many
from gala.overfit.study import Study
from gala.overfit.sweep import draw_all
from gala.rl.normalise import RunningMoments
from gala.runs.distinct import check_distinct
from gala.runs.run_dir import RunDir

CARTPOLE = "classic:CartPole-v1"


def gala(capsys, *words):
    """(exit status, stdout, stderr) of ``gala overfit WORDS``."""
    code = main(["overfit", *map(str, words)])
    out = capsys.readouterr()
    return code, out.out, out.err


def write_sets(folder, family="bits", **sizes):
    settings = {"length": 4} if family == "bits" else {}
    sets = split(make_family(family), sizes or {"train": 4, "test": 8}, **settings)
    for name, contexts in sets.items():
        contexts.write(folder / f"{name}.json")
    return sets


def fake_run(path, contexts, file, *words, moments=(), gone=(), seed=0):
    """A run of random parameters that says that it was trained on ``contexts``; ``moments``: of returns, by learner."""
    words = (f"env.id={contexts.family}", f"env.contexts={file}", "model.hidden=8", *words)
    run, policies = make_run(path, *words, weights=(1.0,) * max(1, len(moments)))
    for rank in range(len(policies)):
        tensors, meta = run.load_part("latest", f"learner{rank}")
        generator = torch.Generator().manual_seed(100 * seed + rank)
        drawn = {k: torch.randn(v.shape, generator=generator) for k, v in sorted(tensors["policy"].items())}
        tensors["policy"] = {k: 0.3 * v for k, v in drawn.items()}
        if moments:
            tensors["return_moments"] = {"packed": torch.tensor(moments[rank], dtype=torch.float64)}
        run.write_part("staging", f"learner{rank}", tensors, meta | {"contexts": dict.fromkeys(contexts.uids, 3)})
    ranks = list(range(len(policies)))
    saved = {"env_steps": int(run.config.steps), "ranks": ranks, "progress": [[1, 1] for _ in ranks]}
    run.commit_checkpoint("staging", ["latest"], saved | {"moments": [[0.0] * 3] * len(policies) + list(gone)})
    return run


def three_runs(folder, *words, family="bits", **sizes):
    """(sets, runs) of a family, in ``folder``."""
    sets = write_sets(folder / "sets", family, **sizes)
    train = folder / "sets" / "train.json"
    return sets, [fake_run(folder / f"r{k}", sets["train"], train, *words, seed=k) for k in range(3)]


def rows_of(study):
    return [json.loads(line) for line in (study / "rows.jsonl").read_text().splitlines()]


def test_a_reference_that_knows_the_sets_or_is_judged_itself_is_refused_before_anything_is_played(tmp_path, capsys):
    sets, runs = three_runs(tmp_path)
    paths, where = [run.path for run in runs], f"sets={tmp_path / 'sets'}"
    knows = fake_run(tmp_path / "knows", sets["test"].take(1), tmp_path / "sets" / "test.json")
    other = fake_run(tmp_path / "other", sets["train"], tmp_path / "sets" / "train.json", seed=7)
    shutil.copytree(paths[0], tmp_path / "copy")
    for reference, told in (
        (paths[2], "which is judged"),
        (tmp_path / "copy", "which is judged"),
        (other.path, "has trained on 4 MDPs of the train set"),
        (knows.path, "has trained on 1 MDPs of the test set"),
    ):
        for command in ("eval", "stress"):
            out = tmp_path / "study"
            code, _, err = gala(capsys, command, *paths, where, f"reference={reference}", f"out={out}")
            assert code == 2 and told in err and err.count("\n") == 1 and not out.exists()


def test_a_reference_is_checked_by_what_an_mdp_is_in_its_one_spelling_too(tmp_path):
    sets = write_sets(tmp_path)
    spelled = ContextSet(tuple(c.with_params(cue=0.5) for c in sets["test"]), "test")
    run = fake_run(tmp_path / "run", sets["test"], tmp_path / "test.json")
    with pytest.raises(ValueError, match="8 MDPs of the test set"):
        check_reference_run(run, "latest", [sets["train"], spelled], [])
    check_reference_run(run, "latest", [sets["train"]], [])


def test_a_reference_of_other_spaces_is_refused_at_once(tmp_path):
    sets = write_sets(tmp_path)
    poles = write_sets(tmp_path / "poles", CARTPOLE, train=3, test=3)["train"]
    run = fake_run(tmp_path / "run", poles, tmp_path / "poles" / "train.json")
    with pytest.raises(ValueError, match="does not fit this environment's spaces"):
        check_reference(JudgeOptions(reference=str(run.path)), list(sets.values()))


@pytest.mark.parametrize("command", ["eval", "stress"])
def test_one_run_does_not_count_as_several(command, tmp_path, capsys):
    _, runs = three_runs(tmp_path)
    a, b, c = (run.path for run in runs)
    shutil.copytree(a, tmp_path / "copy")
    where = [f"sets={tmp_path / 'sets'}", f"out={tmp_path / 'study'}"]
    for paths, told in (((a, b, a), "r0 is named twice"), ((a, b, tmp_path / "copy"), "copy is a copy of")):
        code, _, err = gala(capsys, command, *paths, *where)
        assert code == 2 and told in err and err.count("\n") == 1 and not (tmp_path / "study").exists()
    check_distinct([RunDir.open(path) for path in (a, b, c)])


def test_a_copy_is_no_second_run_of_a_comparison(tmp_path, capsys):
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1")
    shutil.copytree(run.path, tmp_path / "copy")
    for other, told in ((tmp_path / "copy", "is a copy of"), (run.path, "is named twice")):
        assert main(["compare", str(run.path), str(other), f"out={tmp_path / 'out'}"]) == 2
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_policies_and_oracles_count_once_too(tmp_path, capsys):
    sets, runs = three_runs(tmp_path)
    where = [f"sets={tmp_path / 'sets'}", f"out={tmp_path / 'study'}"]
    oracle = fake_run(tmp_path / "oracle", sets["test"], tmp_path / "sets" / "test.json").path
    code, _, err = gala(capsys, "eval", *[run.path for run in runs], f"oracle={oracle},{oracle}", *where)
    assert code == 2 and "oracle is named twice" in err
    for k in range(3):
        (tmp_path / f"net{k}.zip").write_bytes(b"the same")
    names = [f"sb3:{tmp_path / f'net{k}.zip'}" for k in range(3)]
    for given, told in (
        ("m:act,m:act,m:act", "m:act is named twice"),
        (",".join(names), "net1.zip is a copy of"),
        (f"sb3:{tmp_path}/net{{run}}.zip", "net1.zip is a copy of"),
    ):
        code, _, err = gala(capsys, "eval", f"policy={given}", "repeats=3", *where)
        assert code == 2 and told in err and err.count("\n") == 1


def test_baselines_have_as_many_steps_as_those_that_are_judged(tmp_path, capsys):
    """A step of CartPole earns 1, so nobody has more than there are steps; and 475 is out of reach."""
    _, runs = three_runs(tmp_path, "env.max_episode_steps=6", family=CARTPOLE, train=3, test=3)
    for command in ("eval", "stress"):
        out = tmp_path / command
        gala(capsys, command, *[run.path for run in runs], f"sets={tmp_path / 'sets'}", f"out={out}")
        assert {r["policy"] for r in rows_of(out)} == {"agent", "random"}
        assert max(r["return"] for r in rows_of(out)) == max(r["length"] for r in rows_of(out)) == 6
        meta = json.loads((out / "study.json").read_text())
        assert meta["solved"] is None and any("env.max_episode_steps=6" in note for note in meta["notes"])
    audited = json.loads((tmp_path / "eval" / "study.json").read_text())["audit"]["random"]
    assert max(score["mean"] for score in audited.values()) <= 6


def test_runs_of_different_limits_are_not_compared(tmp_path, capsys):
    sets, runs = three_runs(tmp_path)
    short = fake_run(tmp_path / "short", sets["train"], tmp_path / "sets" / "train.json", "env.max_episode_steps=2")
    for command in ("eval", "stress"):
        paths = [runs[0].path, runs[1].path, short.path]
        code, _, err = gala(capsys, command, *paths, f"sets={tmp_path / 'sets'}", f"out={tmp_path / 'study'}")
        assert code == 2 and "env.max_episode_steps=0 and" in err and "judge them apart" in err
        assert err.count("\n") == 1 and not (tmp_path / "study").exists()


def test_a_reference_observes_as_it_was_trained_within_the_limit_of_those_that_are_judged(tmp_path, capsys):
    sets = write_sets(tmp_path, CARTPOLE, train=3, test=3)
    many = split(make_family(CARTPOLE), {"train": 5}, seed=9)["train"]
    many.write(tmp_path / "many-of-another-seed.json")
    run = fake_run(tmp_path / "r", many, tmp_path / "many-of-another-seed.json", "env.expose=true")
    judging = JudgeOptions(reference=str(run.path))
    check_reference(judging, list(sets.values()), [], 6)
    rows = [r for r in baselines(list(sets.values()), judging, {}, 6) if r["policy"] == "reference"]
    options = env_options(run.config) | {"max_episode_steps": 6}
    own = judge(load_agent(run, sets["test"], judging), [sets["test"]], judging, {}, **options)
    assert [r["return"] for r in rows if r["set"] == "test"] == [r["return"] for r in own]
    assert max(r["length"] for r in rows) == 6


def test_the_probes_of_value_and_stress_observe_as_the_run_does(tmp_path, capsys):
    _, runs = three_runs(tmp_path, "env.expose=true", "env.max_episode_steps=6", family=CARTPOLE, train=3, test=3)
    code, out, _ = gala(capsys, "value", runs[0].path, f"sets={tmp_path / 'sets'}")
    told = {
        line[:18].strip(): [float(x) for x in line[18:].split()] for line in out.splitlines()[1:] if ":" not in line
    }
    assert code == 0 and max(told["blind replay"] + told["sticky 0.25"]) <= 6 and "MDP decoded" in told
    words = [f"sets={tmp_path / 'sets'}", "obs_sigma=0.5", f"out={tmp_path / 'study'}"]
    assert gala(capsys, "stress", *[run.path for run in runs], *words)[0] in (0, 3, 4)
    assert json.loads((tmp_path / "study" / "study.json").read_text())["expose"] is True


def test_values_are_set_beside_returns_in_units_of_returns(tmp_path):
    """The deviation of the scaler, which all learners that average parameters pool, also those that are gone."""
    sets = write_sets(tmp_path)
    file, parts = tmp_path / "train.json", [[50.0, 1.0, 800.0], [30.0, 3.0, 10.0]]
    scaled = fake_run(tmp_path / "a", sets["train"], file, "normalize.reward=scale", moments=parts[:1])
    plain = fake_run(tmp_path / "b", sets["train"], file, "normalize.reward=none")
    assert return_scale(scaled, "latest") == pytest.approx(4.0) and return_scale(plain, "latest") == 1.0
    rows = [
        judge(load_agent(run, sets["test"], JudgeOptions()), [sets["test"]], JudgeOptions(), {})
        for run in (scaled, plain)
    ]
    assert [r["value"] for r in rows[0]] == pytest.approx([4.0 * r["value"] for r in rows[1]])
    assert [r["return"] for r in rows[0]] == [r["return"] for r in rows[1]]
    gone = [20.0, -1.0, 40.0]
    team = fake_run(
        tmp_path / "team", sets["train"], file, "normalize.reward=scale", "algo=gala", moments=parts, gone=[gone]
    )
    assert return_moments(team, "latest").pack() == pytest.approx(
        RunningMoments.pooled(np.array([*parts, gone]), ()).pack()
    )


def test_values_that_were_learned_from_signs_are_left_out_and_the_reason_is_given(tmp_path, capsys):
    _, runs = three_runs(tmp_path, "normalize.reward=sign")
    code, out, _ = gala(capsys, "value", runs[0].path, f"sets={tmp_path / 'sets'}")
    assert code == 0 and "value mse" not in out and "signs of rewards" in out
    assert max(map(len, out.splitlines())) <= 80
    gala(capsys, "eval", *[run.path for run in runs], f"sets={tmp_path / 'sets'}", f"out={tmp_path / 'study'}")
    assert all(r["value"] is None for r in rows_of(tmp_path / "study"))
    assert not (tmp_path / "study" / "figures" / "values.png").exists()
    page = (tmp_path / "study" / "report.html").read_text()
    assert "is left out: it was learned from the signs of rewards" in page


def folder_with_reference(folder, finished=True):
    """Sets of CartPole, and beside them a reference trained on many others."""
    sets = write_sets(folder, CARTPOLE, train=3, test=3)
    write_many(folder, sets, 5)
    many = ContextSet.read(folder / "many.json")
    run = fake_run(reference_folder(folder) / "run0", many, folder / "many.json", "steps=100")
    if not finished:
        part, meta = run.load_part("latest", "learner0")
        run.write_part("staging", "learner0", part, meta)
        run.commit_checkpoint("staging", ["latest"], {"env_steps": 1, "ranks": [0], "moments": []})
    return sets, run


def test_a_reference_that_was_left_from_other_sets_or_is_not_trained_yet_is_not_used(tmp_path):
    sets, run = folder_with_reference(tmp_path)
    assert with_reference(JudgeOptions(), tmp_path, sets).reference == str(run.path)
    assert with_reference(JudgeOptions(reference="random"), tmp_path, sets).reference == "random"
    many, family = ContextSet.read(tmp_path / "many.json"), make_family(CARTPOLE)
    known = dict(sets) | {"test": ContextSet((*sets["test"].contexts, many.contexts[2]), "test", sets["test"].region)}
    fixed = split(family, {"train": 3, "test": 3}, force=12)
    outside = split(family, {"train": 3, "test": 3}, region="E")
    pendulum = split(make_family("classic:Pendulum-v1"), {"train": 3, "test": 3})
    for other, told in (
        (known, "shares 1 MDPs with the sets"),
        (fixed, "and the sets force=12"),
        (outside, "is of classic:CartPole-v1 R, the sets of classic:CartPole-v1 E"),
        (pendulum, "the sets of classic:Pendulum-v1"),
    ):
        with pytest.raises(ValueError, match=told):
            with_reference(JudgeOptions(), tmp_path, other)
        with pytest.raises(ValueError, match=told):  # training it further would not mend it
            write_many(tmp_path, other, 5)
    (tmp_path / "many.json").unlink()
    ContextSet(many.contexts[:4], "train", many.region, many.sampler_seed).write(tmp_path / "many.json")
    with pytest.raises(ValueError, match=r"has trained on 1 MDPs that .*many.json does not hold; remove"):
        check_reference_folder(tmp_path, sets)


def test_a_reference_that_is_still_trained_is_no_reference(tmp_path, capsys):
    sets, _ = folder_with_reference(tmp_path, finished=False)
    with pytest.raises(ValueError, match="run0 has not finished its training"):
        with_reference(JudgeOptions(), tmp_path, sets)


def test_eval_and_stress_take_the_same_reference(tmp_path, capsys):
    sets, reference = folder_with_reference(tmp_path / "sets")
    train = tmp_path / "sets" / "train.json"
    runs = [fake_run(tmp_path / f"r{k}", sets["train"], train, seed=k).path for k in range(3)]
    scores = {}
    for command in ("eval", "stress"):
        out = tmp_path / command
        assert gala(capsys, command, *runs, f"sets={tmp_path / 'sets'}", f"out={out}")[0] in (0, 3, 4)
        scores[command] = [(r["context"], r["return"]) for r in rows_of(out) if r["policy"] == "reference"]
        notes = json.loads((out / "study.json").read_text())["notes"]
        assert any(f"the reference is {reference.path}, trained on other MDPs" in note for note in notes)
    assert scores["eval"] == scores["stress"] and {c for c, _ in scores["eval"]} == {
        uid for contexts in sets.values() for uid in contexts.uids
    }


def test_a_set_of_one_training_mdp_is_judged_without_its_control_and_of_one_test_mdp_not_begun(tmp_path, capsys):
    sets, runs = three_runs(tmp_path, train=1, test=4)
    paths = [run.path for run in runs]
    code, out, _ = gala(capsys, "eval", *paths, f"sets={tmp_path / 'sets'}", f"out={tmp_path / 'study'}")
    assert code == 4 and out.startswith("INCONCLUSIVE") and "1 training MDP, the same for all runs" in out
    meta = json.loads((tmp_path / "study" / "study.json").read_text())
    assert meta["controls"] is None and any(note.startswith("1 training MDP: the control") for note in meta["notes"])
    (tmp_path / "sets" / "test.json").unlink()
    sets["test"].take(1).write(tmp_path / "sets" / "test.json")
    for command in ("eval", "stress"):
        code, _, err = gala(capsys, command, *paths, f"sets={tmp_path / 'sets'}", f"out={tmp_path / 'other'}")
        assert code == 2 and "test.json holds 1 MDP; a gap needs at least 2 test MDPs" in err
        assert err.count("\n") == 1 and not (tmp_path / "other").exists()


def test_a_study_that_goes_on_keeps_its_rows_on_its_own_terms_only(tmp_path):
    meta = {"command": "c", "sets": {"test": {"sha256": "a"}}, "delta": 0.05, "expose": False, "checkpoints": {}}
    study = Study.create(tmp_path / "s", meta | {"notes": ["one"]}, resumes=True)
    study.append("part", [{"return": 1.0}])
    study.meta["checkpoints"]["part"] = "hash"
    study.note("two")
    again = Study.create(tmp_path / "s", meta | {"expose": True, "notes": ["one", "three"]}, resumes=True)
    assert again.done() == {"part"} and len(again.rows()) == 1 and again.meta["checkpoints"] == {"part": "hash"}
    assert again.meta["expose"] is True and again.meta["notes"] == ["one", "two", "three"]
    assert again.meta["created"] == study.meta["created"]
    for change in ({"sets": {"test": {"sha256": "b"}}}, {"delta": 0.1}):
        with pytest.raises(ValueError, match="was begun with other"):
            Study.create(tmp_path / "s", meta | change, resumes=True)
    again.meta["versions"]["torch"] = "0.1"
    again.save()
    assert "(was 0.1)" in Study.create(tmp_path / "s", meta, resumes=True).meta["notes"][-1]
    anew = Study.create(tmp_path / "s", meta | {"sets": {}})
    assert not anew.rows() and not anew.done() and anew.meta["notes"] == []


def test_a_sweep_does_not_go_on_with_runs_or_sets_that_are_not_its_own(tmp_path, capsys):
    """Here they lie where it would have put them; nothing is trained."""
    words = ["sweep", "bits", "length=4", "n=2", "runs=3", "test=4", "steps=512", f"out={tmp_path / 'study'}"]
    family, options, study = make_family("bits"), SweepOptions(n=(2,), runs=3, test=4), tmp_path / "study"
    drawn = draw_all(family, options, {"length": 4})
    pool = drawn[""][1][0].take(2)
    pool.write(study / "sets" / "n2-run0.json")
    fake_run(study / "runs" / "n2-run0", pool, study / "sets" / "n2-run0.json", "steps=256")
    write_atomically(study / "study.json", json.dumps({"command": shlex.join(["gala", "overfit", *words])}).encode())
    code, out, err = gala(capsys, *words)
    assert code == 2 and "run0 was trained with" in err and err.count("\n") == 1 and "trained 1" not in out
    assert sorted(path.name for path in (study / "sets").iterdir()) == ["n2-run0.json", "test.json"]
    (study / "sets" / "test.json").unlink()
    split(family, {"test": 4}, seed=3, length=4)["test"].write(study / "sets" / "test.json")
    code, _, err = gala(capsys, *words)
    assert code == 2 and "test.json holds another set than this command draws now" in err


def test_a_header_says_how_the_runs_observe_and_is_that_of_the_last_time(tmp_path, capsys):
    _, runs = three_runs(tmp_path, "env.expose=true", family=CARTPOLE, train=3, test=3)
    words = [*[run.path for run in runs], f"sets={tmp_path / 'sets'}", f"out={tmp_path / 'study'}"]
    gala(capsys, "eval", *words)
    before = json.loads((tmp_path / "study" / "study.json").read_text())
    assert before["expose"] is True
    assert "The policy is told the parameters" in (tmp_path / "study" / "report.html").read_text()
    other = split(make_family(CARTPOLE), {"train": 3, "test": 5}, seed=4)["test"]
    (tmp_path / "sets" / "test.json").unlink()
    other.write(tmp_path / "sets" / "test.json")
    gala(capsys, "eval", *words)
    after = json.loads((tmp_path / "study" / "study.json").read_text())
    assert after["sets"]["test"]["sha256"] == other.sha256 != before["sets"]["test"]["sha256"]
    assert {r["context"] for r in rows_of(tmp_path / "study") if r["set"] == "test"} == set(other.uids)
    assert re.search(rf"5 MDPs, sha256 {other.sha256[:16]}", (tmp_path / "study" / "report.html").read_text())
    assert load_config(runs[0].path / "config.yaml").env.expose


@pytest.mark.parametrize("part", ["notes", "done", "versions"])
def test_a_damaged_header_is_one_line(tmp_path, part):
    meta = {"command": "sweep bits", "sets": {}}
    study = Study.create(tmp_path / "study", meta)
    study.meta[part] = 5
    study.save()
    with pytest.raises(ValueError, match=f"study.json is damaged: {part} is no"):
        Study.create(tmp_path / "study", meta, resumes=True)


@pytest.mark.parametrize(("budget", "kept"), [("1500s", 100), ("750s", 50)])
def test_a_budget_is_reckoned_from_all_the_episodes_that_were_timed(budget, kept, monkeypatch):
    """A tenth of a second each: 100 test MDPs with 40 episodes each, for a run and the two policies beside it, are
    1,200 s; with a fifth kept in hand 1,500. Before, a sample of 800 episodes was taken for one of 50."""
    now, notes = [0.0], []

    def play(agent, sets, judging, head, **options):
        now[0] += sum(0.1 * len(s) * episodes_each(s, judging.episodes) for s in sets)

    monkeypatch.setattr(judged, "judge", play)
    monkeypatch.setattr(judged, "load_agent", lambda *given: None)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    sets = {"test": split(make_family("bits"), {"train": 4, "test": 100}, length=10)["test"]}
    study, run = SimpleNamespace(note=notes.append), SimpleNamespace(config=Config())
    left = judged.afford(study, [run], sets, JudgeOptions(episodes=40, budget=budget))  # type: ignore[arg-type]
    assert len(left["test"]) == kept and bool(notes) == (kept < 100)


def test_stress_takes_the_runs_of_one_condition_of_a_sweep_of_several(tmp_path, capsys):
    """Before, it said that a sweep of algorithms has no runs."""
    root = tmp_path / "sweep"
    study = Study.create(root, {"protocol": "compare", "command": "gala overfit sweep bits algos=a2c,gala"})
    study.append("rows", [{"condition": "algo=a2c"}, {"condition": "algo=gala"}])
    for name in ("algoa2c", "algogala"):
        sets = write_sets(tmp_path / name, train=12, test=4)
        (root / "sets").mkdir(exist_ok=True)
        sets["test"].write(root / "sets" / f"{name}-test.json")
        for k, size in enumerate((4, 4, 4, 2, 2, 2)):
            train = ContextSet(sets["train"].contexts[4 * (k % 3) :][:size], "train")
            cell = f"{name}-n{size}-run{k % 3}"
            train.write(root / "sets" / f"{cell}.json")
            fake_run(root / "runs" / cell, train, root / "sets" / f"{cell}.json", seed=k)
    words = ["stress", root, "sticky=0.5", f"out={tmp_path / 'out'}", "trust=true"]
    assert gala(capsys, *words)[2] == (
        f"gala: error: {root} has no runs of one condition alone; condition=algo=a2c|algo=gala says of which\n"
    )
    assert "has no runs of algo=ppo; condition=algo=a2c|algo=gala" in gala(capsys, *words, "condition=algo=ppo")[2]
    assert "with 3 training MDPs; it has 2, 4" in gala(capsys, *words, "condition=algo=gala", "n=3")[2]
    code, _, error = gala(capsys, *words, "condition=algo=gala")
    assert code in (0, 3, 4), error
    rows = Study(tmp_path / "out", {}).rows()
    assert {(r["n_train"], r["condition"]) for r in rows if r["run"] >= 0} == {(4, ""), (4, "sticky=0.5")}
    assert {r["run"] for r in rows} == {-1, 0, 1, 2}


@pytest.mark.parametrize(
    "words", [("eval", "episodes=8"), ("diagnose", "envs=2", "batches=2"), ("record", "episodes=4")]
)
def test_no_other_mdps_are_played_because_a_name_means_another_file_elsewhere(words, tmp_path, capsys, monkeypatch):
    write_sets(tmp_path / "here", train=8, test=4)
    monkeypatch.chdir(tmp_path / "here")
    trained = ContextSet.read("train.json")
    ContextSet(trained.contexts[:4], "train").write(tmp_path / "elsewhere" / "train.json")
    run = fake_run(tmp_path / "run", trained, "train.json")
    command, *settings = words
    assert main([command, str(run.path), *settings]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main([command, str(run.path), *settings]) == 2
    error = capsys.readouterr().err
    assert "trained on MDPs that the file of env.contexts does not hold" in error and error.count("\n") == 1
