"""Objects of known size in pictures made by hand, and the command on games whose objects are one cell."""

import numpy as np
import pytest
from gala_envs.families import make_family
from gala_envs.splits import split

from gala import cli
from gala.build.envs import make_env
from gala.commands import audit_objects
from gala.config.parse import parse_config
from gala.diagnostics.objects import Found, components, smallest_moving, smallest_rare, warnings


def world(t=60, side=30, noise=0.0):
    """A ball of 2 x 3 px that moves over a striped background, a bat of 8 x 2 px that moves, a block that does not."""
    rng = np.random.default_rng(0)
    frames = np.zeros((t, 1, side, side), np.uint8)
    frames[:, :, ::4] = 80
    frames[:, 0, 20:21, 20:22] = 200
    balls = []
    for k in range(t):
        y, x = 2 + k % 9, (5 * k) % 15
        frames[k, 0, y : y + 2, x : x + 3] = 255
        frames[k, 0, 12 + k % 3 : 20 + k % 3, 28:30] = 150
        balls.append((y, x))
    return np.maximum(frames, (rng.random(frames.shape) < noise).astype(np.uint8)), balls


def test_the_smallest_moving_object_is_the_ball_in_all_its_pixels():
    frames, balls = world()
    found = smallest_moving(frames, np.arange(60) == 0)
    assert (found.area, found.height, found.width, found.share) == (6, 2, 3, 1.0)
    assert found.corner == balls[found.t]


def test_faint_noise_is_no_object_and_a_new_episode_no_motion():
    assert smallest_moving(world(noise=0.01)[0], np.zeros(60, bool)).area == 6
    frames, _ = world()
    assert smallest_moving(frames[:2], np.ones(2, bool)) is None
    assert smallest_moving(np.repeat(frames[:1], 9, 0), np.zeros(9, bool)) is None


def test_what_is_seen_once_is_a_fragment():
    frames, _ = world(t=120)
    frames[50, 0, 25, 5] = 255
    assert smallest_moving(frames, np.zeros(120, bool)).area == 6
    frames[10:20, 0, 25, 5] = 255
    frames[11:20:2, 0, 25, 5] = 0
    assert smallest_moving(frames, np.zeros(120, bool)).area == 1


def test_a_rare_colour_is_found_where_nothing_moves():
    frames, _ = world()
    found = smallest_rare(frames)
    assert (found.area, found.height, found.width, found.corner, found.share) == (2, 1, 2, (20, 20), 1.0)
    assert smallest_rare(np.random.default_rng(0).integers(0, 256, (5, 1, 20, 20))) is None


def test_components_are_those_of_a_slow_flood():
    mask = np.random.default_rng(1).random((17, 23)) < 0.35
    label = np.where(mask, np.arange(mask.size).reshape(mask.shape), -1)
    for _ in range(mask.size):
        padded = np.pad(label, 1, constant_values=-1)
        around = [padded[1 + dy : 18 + dy, 1 + dx : 24 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        label = np.where(mask, np.max(around, 0), -1)
    wanted = {frozenset(map(tuple, np.argwhere(label == k).tolist())) for k in np.unique(label[mask])}
    assert {frozenset(map(tuple, part.tolist())) for part in components(mask)} == wanted


@pytest.mark.parametrize(("field", "stride", "count"), [(36, 8, 1), (4, 8, 2), (4, 2, 1), (36, 4, 0)])
def test_warnings_say_where_an_object_falls_through(field, stride, count):
    assert len(warnings(Found(10, 2, 5, 0, (0, 0), 1.0), field, stride)) == count


def test_the_command_finds_the_object_of_an_exact_size(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "object.png"
    split(make_family("maze"), {"train": 4}, size=9)["train"].write(tmp_path / "mazes.json")
    words = [f"env.contexts={tmp_path / 'mazes.json'}", "model.encoder=bagnet", "model.receptive_field=5"]
    words += [f"out={picture}", "pictures=80"]
    assert cli.main(["audit-objects", "maze", *words]) == 0
    out = capsys.readouterr().out
    assert "maze: 80 pictures of 9 x 9 px" in out and "smallest moving: 1 px (1 x 1), 1.23 % of the image" in out
    assert "warning: it is smaller than one stride: 1 px are less than 8" in out
    assert "encoder bagnet: receptive field 5 px of 9 x 9, stride 8 px" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_of_stacked_pictures_the_newest_is_searched():
    """In both at once, what moves is where it was and where it is."""
    config = parse_config(["env.id=backgrounds:classic:CartPole-v1", "model.encoder=nature_cnn"])
    frames, _ = audit_objects.random_pictures(config, 4)
    stacked = make_env(config, 1)
    assert frames.shape[1:] == (3, *stacked.obs_space.shape[1:]) and stacked.obs_space.shape[0] == 6
    stacked.close()


def test_of_episodes_of_one_decision_it_says_what_the_contexts_say_and_that_no_picture_was_drawn(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    contexts, picture = tmp_path / "t.json", tmp_path / "object.png"
    split(make_family("tiny_objects"), {"train": 3}, side=16, ratio=0.25)["train"].write(contexts)
    words = [f"env.contexts={contexts}", "model.encoder=minatar_cnn", f"out={picture}", "pictures=10"]
    assert cli.main(["audit-objects", "tiny_objects", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny_objects: 10 pictures of 16 x 16 px")
    assert "smallest moving: movement cannot be seen, as every episode has one decision" in lines
    assert "object, as its contexts say: 8 x 8 px, 25 % of the image" in lines  # a quarter of 16 x 16
    assert "  warning: no location of the encoder sees all of it: 3 px are less than 8" in lines
    assert "no picture: there is nothing to circle, so" in "\n".join(lines) and not picture.exists()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["CartPole-v1"], "audit-objects wants [C, H, W] images"),
        (["CartPole-v1", "--pictures", "7"], "pictures=7 must be a whole number of at least 8"),
        (["maze", "pictures=few"], "pictures=few must be a whole number of at least 8"),
        (["maze", "modl.encoder=mlp"], "did you mean"),
        (["maze", "out=object.gif"], "must end in"),
    ],
)
def test_what_cannot_be_audited_is_one_line(words, message, capsys):
    assert cli.main(["audit-objects", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
