"""Recorded rollouts as a data set of videos, against rows counted one by one."""

import json
import math

import numpy as np
import pytest
import torch

from gala import cli
from gala.config.parse import parse_options
from gala.config.video import VideoConfig
from gala.models.likelihoods import LIKELIHOODS
from gala.runs.rollout_writer import RolloutWriter
from gala.runs.rollouts import Chunk, RolloutFacts, open_rollouts
from gala.supervised import video
from gala.supervised.video_checkpoint import load_consensus
from gala.supervised.video_data import open_source
from gala.supervised.video_rollouts import RecordedVideos, encode_actions

DISCRETE = {"kind": "discrete", "sizes": [3], "start": 0}


def write(folder, lengths, frame_of, *, frame=(1, 2, 2), top=255, per_chunk=4, action=DISCRETE):
    """Rollouts of episodes of so many frames; ``frame_of(episode, t, action)`` is what all pixels of a frame are."""
    folder.mkdir()
    dtype = "uint8" if top else "float32"
    writer = RolloutWriter(folder, RolloutFacts({"run": "none"}, frame, dtype, top, action))
    rng = np.random.default_rng(0)
    for begin in range(0, len(lengths), per_chunk):
        rows = [(e, t) for e, n in enumerate(lengths) if begin <= e < begin + per_chunk for t in range(n)]
        actions = np.array([0 if t == 0 else rng.integers(0, 3) for _, t in rows])
        values = [frame_of(e, t, a) for (e, t), a in zip(rows, actions, strict=True)]
        frames = np.array(values, dtype).reshape(-1, *[1] * len(frame)) * np.ones(frame, dtype)
        first = np.array([t == 0 for _, t in rows])
        writer.append(Chunk(frames, actions, np.zeros(len(rows), "f4"), first, first & False, np.full(len(rows), -1)))
    return folder


def test_windows_are_those_of_episodes_with_their_actions_and_splits_share_no_episode(tmp_path):
    lengths = [3, 9, 4, 6, 8, 5, 7, 2, 6, 6, 9, 4, 3, 5, 12]
    folder = write(tmp_path / "r", lengths, lambda e, t, a: 16 * e + t)
    recorded = RecordedVideos(open_rollouts(folder))
    rows = [(e, t) for e, n in enumerate(lengths) for t in range(n)]
    seen = {}
    for split in ("train", "test"):
        videos = recorded.draw(split, 400, 4, seed=1)
        pixels = (videos.frames * 255).round().long()
        assert videos.frames.shape == (4, 400, 1, 2, 2) and videos.actions.shape == (4, 400, 3)
        assert (pixels == pixels[:, :, :, :1, :1]).all()
        seen[split] = set()
        for b in range(400):
            codes = pixels[:, b, 0, 0, 0].tolist()
            e, t = divmod(codes[0], 16)
            assert codes == [16 * e + t + k for k in range(4)] and t + 3 < lengths[e]
            seen[split].add((e, t))
            for k in range(4):
                wanted = torch.zeros(3)
                if t + k:
                    wanted[recorded.rollouts.action[rows.index((e, t + k))]] = 1
                assert torch.equal(videos.actions[k, b], wanted)
    assert seen["test"] == {(e, t) for e in (4, 9, 14) for t in range(lengths[e] - 3)}  # and every window is drawn
    assert seen["train"] == {(e, t) for e, n in enumerate(lengths) if e % 5 != 4 for t in range(n - 3)}
    again = recorded.draw("train", 400, 4, seed=1)
    assert torch.equal(again.frames, recorded.draw("train", 400, 4, seed=1).frames)


def test_actions_as_a_network_sees_them():
    first = np.array([[True, False, False]])
    one = encode_actions({"kind": "discrete", "sizes": [2], "start": 5}, np.array([[0, 6, 5]]), first)
    assert one.tolist() == [[[0, 0], [0, 1], [1, 0]]]
    taken = np.array([[[0, 0], [1, 2], [0, 1]]])
    two = encode_actions({"kind": "multi-discrete", "sizes": [2, 3]}, taken, first)
    assert two.tolist() == [[[0] * 5, [0, 1, 0, 0, 1], [1, 0, 0, 1, 0]]]
    box = encode_actions({"kind": "box", "sizes": [2]}, taken * 0.5, first)
    assert box.tolist() == [[[0, 0], [0.5, 1.0], [0, 0.5]]]


@pytest.mark.long
def test_a_model_that_is_told_the_actions_knows_what_they_do(tmp_path):
    """A frame is white exactly after action 1 of {0, 1, 2}, so that who is told it need not be surprised: without it
    a frame of four equal pixels is worth the entropy of (1/3, 2/3) at best."""
    folder = write(tmp_path / "r", [9] * 40, lambda e, t, a: int(a == 1), top=1)
    out = tmp_path / "run"
    words = ("frames=3", "context=1", "scales=1", "levels=1", "width=8", "latent=1", "batch_size=16", "lr=2e-2")
    words = (*words, "warm_up=0")
    run = ("video", "train", f"data={folder}", *words, "iterations=60", f"out={out}")
    assert cli.main(list(run)) == 0
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    unconditional = -(math.log(1 / 3) / 3 + math.log(2 / 3) * 2 / 3)
    assert 0 < last["nats"] < 0.2 * unconditional
    # It is the action: with those of other videos the same model is surprised.
    source = open_source(str(folder))
    config = parse_options(VideoConfig, [f"data={folder}", *words])
    model = video.make_model(config)
    assert load_consensus(config, out, model) == 60
    videos = source.draw("test", 64, 3, 0)
    wrong = videos.actions.roll(1, 2)
    with torch.no_grad():
        assert -model(videos.frames, wrong).bound.mean() / 2 > 2 * unconditional
    assert cli.main(["video", "eval", str(out), "videos=4", "weights=2", "samples=2"]) == 0
    assert json.loads((out / "eval.json").read_text())["psnr"][0] > 15


def test_the_longest_episode_is_that_of_the_split_with_the_shorter_ones(tmp_path):
    folder = write(tmp_path / "r", [9, 9, 9, 9, 6], lambda e, t, a: t)
    recorded = RecordedVideos(open_rollouts(folder))
    with pytest.raises(ValueError, match=r"no train episode has frames=30; the longest has 6 "):
        recorded.draw("train", 1, 30, seed=0)


@pytest.mark.parametrize(("top", "fits"), [(1, "bernoulli"), (255, "bernoulli"), (None, "gaussian")])
def test_what_is_recorded_chooses_the_likelihood(tmp_path, top, fits):
    folder = write(tmp_path / "r", [9] * 6, lambda e, t, a: 1, top=top)
    words = [f"data={folder}", "scales=1", "levels=1", "width=2"]
    assert video.make_model(parse_options(VideoConfig, words)).likelihood is LIKELIHOODS[fits]
    named = parse_options(VideoConfig, [*words, "likelihood=gaussian"])
    assert video.make_model(named).likelihood is LIKELIHOODS["gaussian"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=nowhere"], "nowhere is neither one of moving-digits"),
        (["data=FOLDER", "scales=1", "levels=1", "frames=30"], "frames=30; the longest has 9"),
        (["data=FOLDER", "scales=4"], "lower scales"),
        (["data=FEW", "scales=1", "levels=1"], "record 5 or more"),
        (["data=VECTORS", "scales=1", "levels=1", "likelihood=bernoulli"], "likelihood=gaussian"),
    ],
)
def test_bad_data_is_one_line_before_anything_starts(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {
        "FOLDER": write(tmp_path / "many", [9] * 6, lambda e, t, a: t),
        "FEW": write(tmp_path / "few", [19] * 4, lambda e, t, a: t),
        "VECTORS": write(tmp_path / "vectors", [19] * 6, lambda e, t, a: t, frame=(3,), top=None),
    }
    words = [_with_folder(word, folders) for word in words]
    assert cli.main(["video", "train", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def _with_folder(word, folders):
    name = word.removeprefix("data=")
    return f"data={folders[name]}" if name in folders else word
