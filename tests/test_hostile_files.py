"""Files and words that nobody would write by hand are one line each, whoever reads them."""

import json

import pytest
from test_evaluate import make_run

from gala import cli
from gala.files.plain_yaml import parse_json

NESTED = "[" * 100_000 + "]" * 100_000
BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))
LONG = "x" * 300


def one_line(capsys, *words):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("gala: error: ") and err.count("\n") == 1 and err[:-1].isprintable()
    return err


@pytest.mark.parametrize(("text", "said"), [(BOMB, "anchors and aliases"), (NESTED, "nested more than 20 deep")])
def test_every_reader_of_yaml_says_what_is_wrong(tmp_path, capsys, text, said):
    file = tmp_path / "file.yaml"
    file.write_text(text)
    assert said in one_line(capsys, "train", f"preset={file}")
    assert said in one_line(capsys, "train", "learners=2", f"topology={file}", "--dry-run")
    assert said in one_line(capsys, "topologies", str(file))
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1")
    (run.path / "config.yaml").write_text(text)
    for command in ("eval", "resume", "diagnose", "plot"):
        assert said in one_line(capsys, command, str(run.path))


@pytest.mark.parametrize("file", ["checkpoints/latest/meta.json", "checkpoints/latest/learner0.json"])
def test_nested_json_of_a_checkpoint_is_damage(tmp_path, capsys, file):
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1")
    (run.path / file).write_text(NESTED)
    assert "is damaged" in one_line(capsys, "eval", str(run.path))


def test_nested_json_elsewhere(tmp_path, capsys):
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1")
    for name in ("summary.json", "versions.json"):
        (run.path / name).write_text(NESTED)
    (run.path / "metrics.jsonl").write_text(f"{NESTED}\n{json.dumps({'global_step': 3})}\n")
    assert run.identity() is None and run.read_metrics() == [{"global_step": 3}]
    with pytest.raises(ValueError, match=r"summary\.json is not valid JSON: nested too deeply"):
        run.read_summary()
    assert "was not made by gala" in one_line(capsys, "train", f"run={run.path}", "overwrite=true")
    contexts = tmp_path / "train.json"
    contexts.write_text(NESTED)
    assert "is not a context set" in one_line(capsys, "train", "env.id=maze", f"env.contexts={contexts}", "--dry-run")
    assert parse_json(b'{"a": [1]}') == {"a": [1]}


@pytest.mark.parametrize(
    "words",
    [
        *[("train", word) for word in (f"preset={LONG}", f"preset={LONG}.yaml", f"run={LONG}", f"env.id={LONG}")],
        ("train", "env.id=maze", f"env.contexts={LONG}"),
        ("train", "learners=2", f"topology={LONG}.yaml", "--dry-run"),
        *[(command, LONG) for command in ("eval", "resume", "diagnose", "plot")],
        ("scale", LONG, "learners=2"),
    ],
)
def test_a_name_of_300_characters_is_one_line(capsys, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_line(capsys, *words)


@pytest.mark.parametrize("character", ["\x1b[31m", "\n", "\x7f", "\x9b"])
def test_control_characters_are_refused_and_not_printed(tmp_path, capsys, character):
    assert "holds a control character" in one_line(capsys, "train", f"run=a{character}b")
    assert "holds a control character" in one_line(capsys, "train", f"env.id=a{character}b")
    one_line(capsys, "eval", f"a{character}b")
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1")
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("CartPole-v1", json.dumps(f"a{character}b")))
    one_line(capsys, "eval", str(run.path))
