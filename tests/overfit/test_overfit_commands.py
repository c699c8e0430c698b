"""``gala overfit`` as a user calls it, with real trainings of a few seconds."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from gala_envs.contexts import ContextSet
from gala_envs.families import make_family
from gala_envs.splits import split

from gala.cli import main
from gala.commands.overfit.words import sort_words
from gala.overfit.options import JudgeOptions, SweepOptions
from gala.overfit.reference import with_reference, write_many
from gala.overfit.study import Study
from gala.overfit.sweep import check, conditions, config_of, training_words
from gala.runs.run_dir import RunDir

TINY = ("steps=2000", "model.hidden=16", "a2c.num_steps=8", "envs_per_learner=4", "torch_threads=1", "algo=a2c")


def run(capsys, *words):
    """(exit status, stdout, stderr) of ``gala overfit WORDS``."""
    code = main(["overfit", *map(str, words)])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Sets of short bit strings, and three runs on the train set."""
    folder = tmp_path_factory.mktemp("overfit")
    assert main(["overfit", "split", "bits", "length=4", "train=4", "test=8", f"out={folder / 'sets'}"]) == 0
    words = [f"sets={folder / 'sets'}", "runs=3", f"out={folder / 'runs'}", *TINY]
    assert main(["overfit", "train", *words]) == 0
    return folder


def runs_of(folder):
    return [folder / "runs" / f"run{k}" for k in range(3)]


def test_the_selftest_finds_everything_as_it_must_be(capsys):
    code, out, _ = run(capsys, "selftest")
    assert code == 0 and "FAIL" not in out and "0 failed" in out


def test_runs_record_the_contexts_that_they_were_trained_on(trained):
    train = ContextSet.read(trained / "sets" / "train.json")
    for path in runs_of(trained):
        _, meta = RunDir.open(path).load_part("latest", "learner0")
        assert set(meta["contexts"]) == set(train.uids)
        assert abs(sum(meta["contexts"].values()) - 2000 / 4) <= 8  # each episode has four steps


def test_a_verdict_a_report_and_an_exit_code(trained, capsys, tmp_path):
    code, out, _ = run(capsys, "eval", *runs_of(trained), f"sets={trained / 'sets'}", f"out={tmp_path / 'study'}")
    verdict = out.split(":")[0]
    assert {"NO-GAP": 0, "OVERFIT": 3, "INCONCLUSIVE": 4}[verdict] == code
    page = (tmp_path / "study" / "report.html").read_text()
    assert re.findall('<p class="verdict"[^>]*>(.*?)</p>', page) == [verdict]
    rows = [json.loads(line) for line in (tmp_path / "study" / "rows.jsonl").read_text().splitlines()]
    assert {(r["policy"], r["set"]) for r in rows} == {
        (policy, name) for policy in ("agent", "random", "reference") for name in ("train", "test")
    }
    assert all(r["return"] == 1.0 for r in rows if r["policy"] == "reference")
    assert all(0 <= r["return"] <= 1 and r["length"] == 4 for r in rows if r["policy"] == "agent")
    hashes = json.loads((tmp_path / "study" / "study.json").read_text())["checkpoints"]
    assert len(set(hashes.values())) == 3 and all(f"{name} {sha}" in page for name, sha in hashes.items())
    again, out_again, _ = run(capsys, "report", tmp_path / "study")
    assert again == code and out_again.splitlines()[:2] == out.splitlines()[:2]


def test_an_evaluation_in_another_order_gives_the_same_rows(trained, capsys, tmp_path):
    for name, runs in (("a", runs_of(trained)), ("b", runs_of(trained)[::-1])):
        run(capsys, "eval", *runs, f"sets={trained / 'sets'}", f"out={tmp_path / name}")
    rows = []
    for name in "ab":
        found = [json.loads(line) for line in (tmp_path / name / "rows.jsonl").read_text().splitlines()]
        rows.append([r | {"run": 2 - r["run"], "part": ""} if name == "b" else r | {"part": ""} for r in found])
    key = lambda r: (r["policy"], r["run"], r["set"], r["context"], r["episode"])  # noqa: E731
    mine = [sorted((r for r in part if r["policy"] == "agent"), key=key) for part in rows]
    assert mine[0] == mine[1]


def test_a_run_that_has_peeked_at_one_test_context_is_caught(trained, capsys, tmp_path):
    train, test = (ContextSet.read(trained / "sets" / f"{name}.json") for name in ("train", "test"))
    peeked = ContextSet((*test.contexts, train.contexts[1]), "test")
    other = ContextSet(train.contexts[:1] + train.contexts[2:], "train")
    for name, contexts in (("train", other), ("test", peeked)):
        contexts.write(tmp_path / "sets" / f"{name}.json")
    code, _, err = run(capsys, "eval", *runs_of(trained), f"sets={tmp_path / 'sets'}", f"out={tmp_path / 'study'}")
    assert code == 2 and re.search(r"has trained on 1 MDPs of the test set \(\w+: \d+ episodes\)", err)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("command", ["eval", "train", "value"])
def test_training_mdps_in_other_words_are_no_test_set(command, trained, capsys, tmp_path):
    train = ContextSet.read(trained / "sets" / "train.json")
    train.write(tmp_path / "sets" / "train.json")
    spelled = tuple(c.with_params(cue=0.5) for c in train.contexts)
    ContextSet(spelled, "test").write(tmp_path / "sets" / "test.json")
    runs = {"eval": runs_of(trained), "train": [], "value": runs_of(trained)[:1]}[command]
    code, out, err = run(capsys, command, *runs, f"sets={tmp_path / 'sets'}")
    assert code == 2 and "the train and test sets share 4 MDPs" in err and err.count("\n") == 1 and not out
    code, out, _ = run(capsys, "audit", tmp_path / "sets")
    assert code == 1 and "Found 4 pairs" in " ".join(out.split()) and max(map(len, out.splitlines())) <= 80


def test_stress_and_value_of_trained_runs(trained, capsys, tmp_path):
    code, out, _ = run(
        capsys, "stress", *runs_of(trained), f"sets={trained / 'sets'}", "sticky=0,0.5", "obs_sigma=0.5",
        f"out={tmp_path / 'study'}",
    )  # fmt: skip
    assert code in (0, 3, 4)
    rows = [json.loads(line) for line in (tmp_path / "study" / "rows.jsonl").read_text().splitlines()]
    assert {r["condition"] for r in rows} == {"", "sticky=0.5", "sigma=0.5"}
    assert "Robustness, not generalisation" in (tmp_path / "study" / "report.html").read_text()
    code, out, _ = run(capsys, "value", runs_of(trained)[0], f"sets={trained / 'sets'}")
    assert code == 0 and "value bias" in out and "MDP decoded" in out and max(map(len, out.splitlines())) <= 80


def test_a_budget_takes_contexts_from_a_stress_test_too_and_says_so(trained, capsys, tmp_path):
    many = tmp_path / "sets"
    many.mkdir()
    shutil.copy(trained / "sets" / "train.json", many)
    train = ContextSet.read(many / "train.json")
    others = [c for c in make_family("bits").sample(16, "P", np.random.default_rng(0), {"length": 4}) if c not in train]
    ContextSet(tuple(c.with_params(cue=cue / 100) for c in others for cue in range(40)), "test").write(
        many / "test.json"
    )
    words = [*runs_of(trained), f"sets={many}", "sticky=0,0.1,0.2", f"out={tmp_path / 'study'}"]
    code, _, _ = run(capsys, "stress", *words, "budget=0.001s")
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "study" / "rows.jsonl").read_text().splitlines()]
    played = {r["context"] for r in rows if r["set"] == "test" and r["policy"] == "agent"}
    assert code in (0, 3, 4) and study["budget"] == "0.001s" and len(played) == 20
    assert any("4 train, 20 test contexts, fewer than the sets hold" in note for note in study["notes"])


@pytest.mark.long
def test_oracles_trained_on_the_test_set_tell_what_knowing_it_gains(trained, capsys, tmp_path):
    sets = f"sets={trained / 'sets'}"
    assert run(capsys, "train", sets, "on=test", "runs=1", f"out={tmp_path / 'oracles'}", *TINY)[0] == 0
    words = [sets, f"oracle={tmp_path / 'oracles'}", f"out={tmp_path / 'study'}"]
    code, out, _ = run(capsys, "eval", *runs_of(trained), *words)
    rows = [json.loads(line) for line in (tmp_path / "study" / "rows.jsonl").read_text().splitlines()]
    means = {
        name: np.mean([r["return"] for r in rows if r["policy"] == name and r["set"] == "test"])
        for name in ("agent", "oracle")
    }
    told = " ".join(out.split())
    assert code in (0, 3, 4) and f"oracle gap {means['oracle'] - means['agent']:+.3g} [" in told
    assert f"scores {means['oracle']:.3g} there, and not {means['agent']:.3g};" in told and "one oracle" in told
    assert f"Oracle gap {means['oracle'] - means['agent']:+.3g} [" in (tmp_path / "study" / "report.html").read_text()
    code, _, err = run(capsys, "eval", *runs_of(trained), sets, f"oracle={runs_of(trained)[0]}", "out=nowhere")
    assert code == 2 and "must have trained on test MDPs and no others; it has trained on 4 others" in err


def test_many_mdps_are_of_the_sets_kind_and_none_of_them(tmp_path):
    sets = split(make_family("classic:CartPole-v1"), {"train": 3, "test": 5}, force=12)
    write_many(tmp_path, sets, 20)
    drawn = ContextSet.read(tmp_path / "many.json")
    assert len(drawn) == 20 and not {c for its in sets.values() for c in its} & set(drawn)
    assert {c.get("force", 0) for c in drawn} == {12} and len({c.get("length", 0) for c in drawn}) == 20
    bits = split(make_family("bits"), {"train": 3, "test": 4}, length=3)
    with pytest.raises(ValueError, match="there are only 8"):
        write_many(tmp_path / "bits", bits, 2)


@pytest.mark.long
def test_a_reference_trained_on_many_other_mdps_is_what_gaps_are_taken_against(capsys, tmp_path):
    """Of a family whose best return nobody knows; the sets have force 12 in common, which the many must have too."""
    sets, tiny = f"sets={tmp_path / 'sets'}", [word for word in TINY if not word.startswith("steps=")]
    words = ["split", "classic:CartPole-v1", "force=12", "train=3", "test=5", f"out={tmp_path / 'sets'}"]
    assert run(capsys, *words)[0] == 0
    many = [sets, "on=many", "many=20", "steps=3000", *tiny]
    code, out, _ = run(capsys, "train", *many)
    assert code == 0 and out.endswith(f"judge: gala overfit eval RUN ... {sets}\n")
    drawn = ContextSet.read(tmp_path / "sets" / "many.json")
    known = {c for name in ("train", "test") for c in ContextSet.read(tmp_path / "sets" / f"{name}.json")}
    assert len(drawn) == 20 and not known & set(drawn) and {c.get("force", 0) for c in drawn} == {12}
    assert len({c.get("length", 0) for c in drawn}) == 20
    reference = tmp_path / "sets" / "reference" / "run0"
    _, meta = RunDir.open(reference).load_part("latest", "learner0")
    assert set(meta["contexts"]) == set(drawn.uids)
    assert run(capsys, "train", *many)[1].startswith("1 of 1 are in")
    code, _, err = run(capsys, "train", *many, "many=30")
    assert code == 2 and "many.json holds 20 MDPs, not many=30" in err

    assert run(capsys, "train", sets, "runs=3", f"out={tmp_path / 'runs'}", "steps=1000", *tiny)[0] == 0
    code, _, _ = run(capsys, "eval", *runs_of(tmp_path), sets, f"out={tmp_path / 'study'}")
    rows = [json.loads(line) for line in (tmp_path / "study" / "rows.jsonl").read_text().splitlines()]
    played = {r["context"] for r in rows if r["policy"] == "reference"}
    assert code in (0, 3, 4) and played == {c.uid for c in known}
    notes = json.loads((tmp_path / "study" / "study.json").read_text())["notes"]
    assert any(f"the reference is {reference}, trained on other MDPs" in note for note in notes)


def test_an_optimum_that_is_known_stays_the_reference(tmp_path):
    sets = split(make_family("bits"), {"train": 3, "test": 5})
    for name, contexts in sets.items():
        contexts.write(tmp_path / f"{name}.json")
    (tmp_path / "reference" / "run0" / "checkpoints" / "latest").mkdir(parents=True)
    assert with_reference(JudgeOptions(), tmp_path, sets) == JudgeOptions()


def test_runs_that_are_there_with_other_settings_are_refused_and_those_with_the_same_are_counted(trained, capsys):
    words = [f"sets={trained / 'sets'}", f"out={trained / 'runs'}", "runs=3"]
    code, out, _ = run(capsys, "train", *words, *TINY)
    assert code == 0 and out.startswith(f"3 of 3 are in {trained / 'runs'} already, with these settings\n")
    code, out, err = run(capsys, "train", *words, *TINY, "optim.lr=0.5")
    assert (code, out) == (2, "") and "run0 was trained with optim.lr=" in err and ", not 0.5; give those" in err
    code, _, err = run(capsys, "train", *words, *TINY, "on=test")
    assert code == 2 and "run0 was trained with env.contexts=" in err


def test_easier_variants_are_judged_apart(trained, capsys, tmp_path):
    words = [f"sets={trained / 'sets'}", "easier=true", f"out={tmp_path / 'study'}"]
    assert run(capsys, "stress", *runs_of(trained), *words)[0] in (0, 3, 4)
    rows = [json.loads(line) for line in (tmp_path / "study" / "rows.jsonl").read_text().splitlines()]
    assert {r["condition"] for r in rows} == {"", "easier=cue:1.0"}
    page = (tmp_path / "study" / "report.html").read_text()
    assert re.search(r"easier=cue:1.0[^<]*</td><td>robustness</td>", page)


@pytest.mark.parametrize("change", ["random_start=true", "init_mult=2"])
def test_a_stress_that_the_family_does_not_know_is_refused(change, trained, capsys, tmp_path):
    words = [f"sets={trained / 'sets'}", change, f"out={tmp_path / 'study'}"]
    code, out, err = run(capsys, "stress", *runs_of(trained), *words)
    assert (code, out) == (2, "") and f"bits has no parameter {change.partition('=')[0]}" in err
    assert not (tmp_path / "study").exists()


def test_too_few_runs_for_a_stress_test_are_counted(trained, capsys):
    for runs in (1, 2):
        code, _, err = run(capsys, "stress", *runs_of(trained)[:runs], f"sets={trained / 'sets'}", "sticky=0.25")
        assert code == 2 and f"needs at least 3 training runs, and {runs} is given" in err and "usage" not in err


@pytest.mark.parametrize("command", [("sweep", "bits", "n=1,2"), ("flip", "maze", "n=1"), ("train",)])
def test_settings_that_do_not_go_together_are_found_before_anything_is_written(command, trained, capsys, tmp_path):
    sets = [f"sets={trained / 'sets'}"] if command == ("train",) else []
    code, out, err = run(capsys, *command, *sets, *TINY, "model.receptive_field=17", f"out={tmp_path / 'study'}")
    assert (code, out, err) == (2, "", "gala: error: model.receptive_field is for model.encoder=bagnet, not mlp\n")
    assert not (tmp_path / "study").exists()


def scripted(obs, state, rng):
    """What the cue says."""
    return int(obs[-1] > 0)


def test_any_policy_in_python_is_judged(trained, capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    run(capsys, "split", "bits", "cue=1", "train=10", "test=60", f"out={tmp_path / 'sets'}")
    code, out, _ = run(
        capsys,
        "eval",
        "policy=test_overfit_commands:scripted",
        f"sets={tmp_path / 'sets'}",
        f"out={tmp_path / 'study'}",
    )
    assert code == 0 and out.startswith("NO-GAP")


def test_a_budget_makes_the_sets_smaller_and_the_report_says_so(trained, capsys, tmp_path):
    run(capsys, "split", "bits", "length=4", "train=4", "test=8", f"out={tmp_path / 'sets'}")
    words = [*runs_of(trained), f"sets={trained / 'sets'}", f"out={tmp_path / 'study'}", "budget=0.01s"]
    run(capsys, "eval", *words)
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    assert any(note.startswith("budget 0.01s:") for note in study["notes"])
    assert "budget 0.01s" in (tmp_path / "study" / "report.html").read_text()


@pytest.mark.long
def test_a_sweep_that_was_cut_off_goes_on_and_gives_what_a_whole_one_gives(capsys, tmp_path):
    words = ["sweep", "bits", "length=4", "n=2", "runs=3", "test=8", *TINY, f"out={tmp_path / 'study'}"]
    code, _, _ = run(capsys, *words)
    study = tmp_path / "study"
    whole = sorted((study / "rows.jsonl").read_text().splitlines())
    shutil.rmtree(study / "runs" / "n2-run2")
    meta = json.loads((study / "study.json").read_text())
    meta["done"].remove("n2-run2")
    (study / "study.json").write_text(json.dumps(meta))
    assert run(capsys, *words)[0] == code
    again = sorted((study / "rows.jsonl").read_text().splitlines())
    assert again == whole
    fresh = {
        json.loads(r)["context"]
        for r in whole
        if json.loads(r)["set"] == "train" and json.loads(r)["policy"] == "agent"
    }
    assert len(fresh) == 6  # two levels for each run, all different
    assert run(capsys, *words[:-1], "judge.delta=0.2", words[-1])[0] == 2  # another study, in the same directory


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep"], "name a family first"),
        (["sweep", "maze", "runs=2"], "needs at least 3"),
        (["sweep", "maze", "n=0"], "at least 1 each"),
        (["sweep", "maze", "test=1"], "test=1 must be at least 2"),
        (["sweep", "classic:CartPole-v1", "reference=optimal"], "nobody knows the best return of classic:CartPole-v1"),
        (["sweep", "bits", "env.max_episode_steps=9", "reference=optimal"], "within env.max_episode_steps=9"),
        (["sweep", "bits", "reference=no_such_module:act"], "there is no module"),
        (["sweep", "maze", "seize=3"], "unknown setting 'seize'; did you mean 'size'"),
        (["sweep", "maze", "size=two"], "size=two wants a number"),
        (["sweep", "maze", "size=4.5"], "size=4.5 wants a whole number"),
        (["sweep", "bits", "flip=0.5"], "no parameter flip"),
        (["sweep", "maze", "algos=ppo"], "unknown algorithm ppo"),
        (["sweep", "maze", "algos=a2c", "flip=0.5"], "not both"),
        (["sweep", "maze", "judge.budget=soon"], "wants a time such as 90s"),
        (["sweep", "bits", "length=4", "n=10", "runs=3", "test=10"], "there are only 16"),
        (["split", "mazes"], "did you mean maze"),
        (["split", "maze", "steps=5"], "a setting of training"),
        (["split", "maze", "test=-1"], "must be 0 or more"),
        (["eval", "run"], "at least 3 training runs"),
        (["eval"], "usage"),
        (["audit"], "usage"),
        (["audit", "nowhere"], "no train.json"),
        (["report", "nowhere"], "no study"),
        (["judge"], "usage: gala overfit judge SCORES.csv"),
        (["judges"], "unknown subcommand 'judges'"),
        (["split", "maze", "train=0"], "train=0 must be at least 1"),
        (["split", "maze", "test=1"], "test=1 must be at least 2"),
        (["audit", "sets", "tolerance=-1"], "tolerance=-1 must be a finite number, 0 or more"),
    ],
)
def test_bad_input_gets_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_without_contexts_cannot_be_judged(capsys, tmp_path, trained):
    assert main(["train", "env.id=CartPole-v1", *TINY, f"run={tmp_path / 'run'}", "log.panel=off"]) == 0
    code, _, err = run(
        capsys, "eval", tmp_path / "run", *runs_of(trained)[1:], f"sets={trained / 'sets'}", f"out={tmp_path / 's'}"
    )
    assert code == 2 and "not trained on contexts" in err
    words = [f"sets={trained / 'sets'}", f"reference={tmp_path / 'run'}", f"out={tmp_path / 's'}"]
    code, _, err = run(capsys, "eval", *runs_of(trained), *words)
    assert code == 2 and "run was not trained on contexts: whether it knows" in err and err.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_words_go_to_whom_they_are_for():
    from gala_envs.families import make_family

    words = ["n=1,2", "size=5", "steps=100", "--flip", "0.5", "judge.act=greedy", "a2c.gamma=0.9"]
    options, parameters, training = sort_words(words, SweepOptions, make_family("maze"))
    assert options.n == (1, 2) and options.judge.act == "greedy" and parameters == {"size": 5}
    assert options.flip == (0.5,) and training == ["steps=100", "a2c.gamma=0.9"]
    assert np.isclose(options.judge.delta, 0.05)
    options, _, training = sort_words(["budget=5m", "delta=0.1", "seed=3"], SweepOptions, None)
    assert (options.judge.budget, options.judge.delta, options.judge.seed, training) == ("5m", 0.1, 1000, ["seed=3"])


def test_a_study_of_many_episodes_is_read_back(tmp_path):
    """1,200 MDPs, three runs and five episodes of each were once too large to be judged."""
    study = Study(tmp_path, {})
    rows = [{"run": k % 3, "context": f"{k:016}", "return": 1.0, "filler": "x" * 250} for k in range(18_000)]
    study.append("rows", rows)
    assert (tmp_path / "rows.jsonl").stat().st_size > 4 * 2**20 and len(study.rows()) == len(rows)


@pytest.mark.parametrize(("words", "learners"), [([], 1), (["learners=2"], 2), (["learners=2", "algos=a2c,gala"], 1)])
def test_learners_of_a_sweep_are_those_of_its_trainings(words, learners):
    """``learners`` is a word of the sweep and of its trainings: one that was given must not get lost between them."""
    family = make_family("bits")
    options, _, training = sort_words([*TINY, *words, "algo=gala"], SweepOptions, family)
    check(options, family)
    assert config_of(family, training_words(options, training)).learners == learners
    if options.algos:
        assert [c.words[1] for c in conditions(options)] == ["learners=1", "learners=2"]
