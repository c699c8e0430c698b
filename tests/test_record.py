"""``gala record``: what is written is what was played, and nothing that was changed is read as if it were."""

import json
import re
import shutil
import signal
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gala_envs.registry import make
from test_evaluate import make_run

from gala import cli
from gala.build.envs import make_evaluation_env, probe_spaces
from gala.config.parse import parse_config
from gala.evaluation.frames import framing
from gala.evaluation.load import load_policy
from gala.evaluation.play import play
from gala.evaluation.record import RecordedEnv, play_chunk
from gala.runs.rollouts import MANIFEST, Chunk, digest, open_rollouts
from gala.runs.run_dir import RunDir

BREAKOUT = ("env.id=MinAtar/Breakout-v1", "env.sticky_actions=0.3")


def record(run, out, *words):
    return cli.main(["record", str(run.path), f"out={out}", *words])


def episodes(chunk):
    """(frames, actions, rewards, terminated) of each episode of a Chunk or Rollouts."""
    frames = chunk.frames if isinstance(chunk, Chunk) else np.concatenate(chunk.frames)
    cuts = np.flatnonzero(chunk.first)[1:]
    parts = [np.split(x, cuts) for x in (frames, chunk.action, chunk.reward, chunk.terminated)]
    return list(zip(*parts, strict=True))


def test_what_is_recorded_is_what_was_played(tmp_path):
    run, _ = make_run(tmp_path / "run", *BREAKOUT)
    assert record(run, tmp_path / "out", "episodes=5", "seed=7") == 0
    rollouts = open_rollouts(tmp_path / "out")
    recorded = episodes(rollouts)
    # What `play` says of the same episodes, without anybody watching.
    env = make_evaluation_env(run.config, 5)
    policy = load_policy(run, run.config, probe_spaces(run.config), "latest", "consensus")
    seed = int(np.random.SeedSequence([7, 0]).generate_state(1)[0])
    returns, lengths = play(env, *policy, 5, mode="sampled", seed=seed)
    assert [len(frames) - 1 for frames, *_ in recorded] == lengths
    assert [reward.sum() for _, _, reward, _ in recorded] == returns
    assert all(reward[0] == 0 and action[0] == 0 for _, action, reward, _ in recorded)
    assert [terminated.sum() for *_, terminated in recorded] == [1] * 5
    # The recorded actions of row 0 lead through the recorded frames.
    obs = env.reset(seed)
    frames, actions, rewards, _ = recorded[0]
    assert np.array_equal(frames[0], obs[0])
    for t in range(1, len(frames)):
        step = env.step(np.array([actions[t], 0, 0, 0, 0]))
        seen = step.final_obs[0] if step.episode_over[0] else step.obs[0]
        assert np.array_equal(frames[t], seen) and rewards[t] == step.reward[0]
    assert rollouts.facts.top == 1 and (rollouts.context == -1).all()


@pytest.mark.parametrize("autoreset", ["same-step", "next-step"])
def test_both_ways_of_starting_again_give_the_same_episodes(autoreset):
    env = make("CartPole-v1", 3, autoreset=autoreset, max_episode_steps=14)
    recorded = RecordedEnv(env, lambda obs: obs, 7)
    obs, rng = recorded.reset(3), np.random.default_rng(0)
    expected = {0: [[obs[0]]], 1: [[obs[1]]], 2: [[obs[2]]]}
    for _ in range(80):
        step = recorded.step((rng.random(3) < 0.8).astype(int))
        for row in range(3):
            if not step.valid[row]:
                expected[row].append([step.obs[row]])
            elif step.episode_over[row]:
                expected[row][-1].append(step.final_obs[row])
                if autoreset == "same-step":
                    expected[row].append([step.obs[row]])
            else:
                expected[row][-1].append(step.obs[row])
    wanted = [np.stack(episode) for row, n in ((0, 3), (1, 2), (2, 2)) for episode in expected[row][:n]]
    got = episodes(recorded.chunk())
    assert len(got) == 7
    assert all(np.array_equal(frames, other) for (frames, *_), other in zip(got, wanted, strict=True))
    cut = [len(frames) == 15 for frames, *_ in got]
    assert [not t.any() for *_, t in got] == cut and any(cut) and not all(cut)


def test_an_interrupted_recording_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, capsys):
    run, _ = make_run(tmp_path / "run", *BREAKOUT)
    assert record(run, tmp_path / "whole", "episodes=40") == 0
    parts = tmp_path / "parts"

    def end_in_the_second(*args, **kwargs):
        if (parts / "chunk-00000.npz").exists():
            signal.raise_signal(signal.SIGTERM)
        return play_chunk(*args, **kwargs)

    monkeypatch.setattr("gala.evaluation.record.play_chunk", end_in_the_second)
    assert record(run, parts, "episodes=40") == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert "32 of 40 episodes; the same command goes on" in capsys.readouterr().out
    assert record(run, parts, "episodes=40") == 0
    a, b = open_rollouts(tmp_path / "whole"), open_rollouts(parts)
    for name in ("action", "reward", "first", "terminated", "context"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert all(np.array_equal(x, y) for x, y in zip(a.frames, b.frames, strict=True))
    assert record(run, parts, "episodes=40", "seed=1") == 2
    assert "seed was 2000, not 1" in capsys.readouterr().err
    assert record(run, parts, "episodes=39") == 2


def test_a_recording_that_was_cut_off_in_its_first_chunk_goes_on(tmp_path):
    """Killed, or out of room, before there was a manifest."""
    run, _ = make_run(tmp_path / "run", *BREAKOUT)
    assert record(run, tmp_path / "whole", "episodes=3") == 0
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    (cut / "README.md").unlink()
    (cut / MANIFEST).rename(cut / f"{MANIFEST}.tmp")
    (cut / "chunk-00000.npz.tmp").write_bytes(b"half")
    assert record(run, cut, "episodes=3") == 0
    assert (cut / "chunk-00000.npz").read_bytes() == (tmp_path / "whole" / "chunk-00000.npz").read_bytes()
    assert not list(cut.glob("*.tmp"))
    (cut / MANIFEST).unlink()
    assert record(run, cut, "episodes=3") == 2, "a README is not of a first chunk alone"


def test_whole_rollouts_are_read_where_nothing_can_be_unpacked(tmp_path):
    run, _ = make_run(tmp_path / "run", *BREAKOUT)
    out = tmp_path / "out"
    assert record(run, out, "episodes=3") == 0
    (out / ".unpacked").write_text("")
    with np.load(out / "chunk-00000.npz") as chunk:
        assert np.array_equal(open_rollouts(out).frames[0], chunk["frames"])


def test_a_folder_where_a_file_belongs_is_one_line(tmp_path, capsys):
    run, _ = make_run(tmp_path / "run", *BREAKOUT)
    out = tmp_path / "out"
    (out / "chunk-00000.npz").mkdir(parents=True)
    assert record(run, out, "episodes=3") == 2
    error = capsys.readouterr().err
    assert f"{out}/chunk-00000.npz: Is a directory: it cannot be read or written there" in error, error
    assert error.count("\n") == 1


@pytest.mark.parametrize("identity", ["abc", None])
def test_the_run_is_named_for_every_directory_and_an_older_recording_that_does_not_goes_on(
    tmp_path, monkeypatch, identity
):
    monkeypatch.setattr(RunDir, "identity", lambda self: identity)
    run, _ = make_run(tmp_path / "run", *BREAKOUT)
    monkeypatch.chdir(tmp_path)
    run.path = Path("run")
    assert record(run, "out", "episodes=2") == 0
    told = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert told["source"]["run"] == str(tmp_path / "run")
    older = {k: v for k, v in told.items() if k != "sha256"} | {"source": told["source"] | {"run": "run"}}
    (tmp_path / "out" / MANIFEST).write_text(json.dumps({**older, "sha256": digest(older)}))
    assert record(run, "out", "episodes=3") == 0
    assert open_rollouts("out").facts.source["run"] == str(tmp_path / "run")
    assert len(open_rollouts("out").episode_starts) == 3 + 1


def test_windows_contexts_and_the_three_lines_of_the_readme(tmp_path):
    sets = tmp_path / "sets"
    assert cli.main(["overfit", "split", "maze", "train=3", "test=4", "size=5", f"out={sets}"]) == 0
    run, _ = make_run(tmp_path / "run", "env.id=maze", f"env.contexts={sets}/train.json", "env.max_episode_steps=20")
    out = tmp_path / "out"
    assert record(run, out, "episodes=40", f"env.contexts={sets}/test.json") == 0
    rollouts = open_rollouts(out)
    test = json.loads((sets / "test.json").read_text())["contexts"]
    assert len(rollouts.facts.contexts) == len(test) == 4 and set(rollouts.context) == {0, 1, 2, 3}
    whole = np.concatenate(rollouts.frames)
    for start, end in zip(rollouts.episode_starts[:-1], rollouts.episode_starts[1:], strict=True):
        assert np.array_equal(rollouts.rows(int(start), int(end - start)), whole[start:end])
        assert len(set(rollouts.context[start:end])) == 1
        assert (whole[start:end, 0] == whole[start, 0]).all()  # the walls of one maze
    assert isinstance(rollouts.frames[0], np.memmap)
    (code,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.S)
    told = {}
    exec(code.replace("chunk-00000.npz", str(out / "chunk-00000.npz")), told)
    assert np.array_equal(told["frames"], rollouts.frames[0]) and told["first"].sum() == 32


def test_nothing_that_was_changed_is_read(tmp_path):
    run, _ = make_run(tmp_path / "run", *BREAKOUT)
    out = tmp_path / "out"
    assert record(run, out, "episodes=3") == 0
    frames = open_rollouts(out).frames[0].copy()
    (unpacked,) = (out / ".unpacked").iterdir()
    unpacked.write_bytes(unpacked.read_bytes()[:-1] + b"\7")  # only a copy: made again
    assert np.array_equal(open_rollouts(out).frames[0], frames)
    manifest = (out / MANIFEST).read_text()
    for name, change, message in (
        ("chunk-00000.npz", lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:], "is damaged"),
        ("chunk-00000.npz", lambda b: b[:-1], "is damaged"),
        (MANIFEST, lambda b: b.replace(b'"mode": "sampled"', b'"mode": "greedy"'), "is damaged"),
        (MANIFEST, lambda b: b"[]", "is damaged"),
        (MANIFEST, lambda b: b.replace(b'"schema": 1', b'"schema": 9'), "schema 9"),
    ):
        before = (out / name).read_bytes()
        (out / name).write_bytes(change(before))
        with pytest.raises(ValueError, match=message):
            open_rollouts(out)
        (out / name).write_bytes(before)
    assert (out / MANIFEST).read_text() == manifest and np.array_equal(open_rollouts(out).frames[0], frames)
    whole = (out / "chunk-00000.npz").read_bytes()
    (out / "chunk-00000.npz").write_bytes(whole[:-1])
    assert record(run, out, "episodes=4") == 2, "nothing is added to what is damaged"
    (out / "chunk-00000.npz").unlink()
    assert record(run, out, "episodes=4") == 2 and (out / MANIFEST).read_text() == manifest
    with pytest.raises(ValueError, match=r"chunk-00000.npz cannot be read"):
        open_rollouts(out)


def test_pictures_are_averaged_down_and_stacks_give_their_newest():
    obs = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84)).astype(np.uint8)
    frames = framing(parse_config(["env.id=ALE/Pong-v5"]), gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), 42)
    small = obs[:, 3].reshape(2, 42, 2, 42, 2).mean((2, 4))
    assert frames.shape == (1, 42, 42) and np.array_equal(frames.make(obs)[:, 0], np.rint(small))
    colours = gym.spaces.Box(0, 255, (6, 42, 42), np.uint8)
    both = framing(parse_config(["env.id=backgrounds:classic:CartPole-v1"]), colours, 42)
    assert np.array_equal(both.make(obs[:, :, :42, :42].repeat(2, 1)[:, :6]), obs[:, :, :42, :42].repeat(2, 1)[:, 3:6])
    vector = framing(parse_config(["env.id=CartPole-v1"]), gym.spaces.Box(-1, 1, (4,), np.float64), 42)
    assert (vector.shape, vector.dtype, vector.top) == ((4,), "float32", None)
    wide = framing(parse_config(["env.id=CartPole-v1"]), gym.spaces.Box(0, 255, (90, 60, 3), np.uint8), 30)
    picture = np.full((1, 90, 60, 3), [10, 20, 30], np.uint8)
    assert wide.shape == (3, 30, 30) and (wide.make(picture)[0] == np.array([10, 20, 30])[:, None, None]).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere is not a run directory"),
        (["RUN", "episodes=0"], "episodes=0"),
        (["RUN", "learner=3"], "learner=3"),
        (["RUN", "out="], "out="),
        (["RUN", "size=2"], "size=2"),
        (["RUN", "env.sticky_actions=2"], "sticky_actions"),
        (["RUN", "env.contexts=nowhere.json"], "contexts"),
        (["RUN", "out=FULL"], "is not empty and holds no rollouts"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, _ = make_run(tmp_path / "run")
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "notes").write_text("mine")
    assert cli.main(["record", *(str(run.path) if w == "RUN" else w for w in words)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "rollouts").exists()
    assert [path.name for path in (tmp_path / "FULL").iterdir()] == ["notes"]
