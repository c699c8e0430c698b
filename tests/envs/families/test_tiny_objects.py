"""Tiny objects: what a picture holds is counted in it, and the moving task has a slow second implementation."""

import numpy as np
import pytest
from gala_envs.contexts import Context
from gala_envs.contextual_env import ContextualEnv
from gala_envs.contract import check_batched_env
from gala_envs.families import make_family, tiny_objects
from gala_envs.families.glyphs import KINDS, draw_glyph, lit_pixels
from gala_envs.families.tiny_objects import build, object_side
from gala_envs.registry import make
from gala_envs.splits import split

FAMILY = make_family("tiny_objects")
SIZES = [(16, 1 / 4), (32, 1 / 16), (64, 1 / 64), (100, 0.01), (128, 1 / 256), (256, 1 / 1024)]


def boxes(level, p):
    return [level.picture[y : y + p, x : x + p] for y, x in level.corners]


@pytest.mark.parametrize(("side", "ratio"), SIZES)
@pytest.mark.parametrize("task", ["detect", "goto", "which"])
def test_a_picture_holds_one_object_or_its_stand_in_and_clutter_of_constant_density(task, side, ratio):
    n = max(1, round(0.3 / ratio))
    for seed in range(6):
        context = Context.of("tiny_objects", seed, task=task, side=side, ratio=ratio)
        level, p = build(context), object_side(context)
        assert p**2 / side**2 == pytest.approx(ratio, rel=1e-12) and level.picture.shape == (side, side)
        assert len(level.kinds) == len(level.corners) == n + 1
        targets = tiny_objects.TARGETS[task]
        assert np.isin(level.kinds, targets).sum() == (level.answer if task == "detect" else 1)
        if task == "which":
            assert targets[level.answer] == level.kinds[0]
        # every glyph lies whole in its own box, and there is no ink elsewhere
        assert all((box > 0).sum() == lit_pixels(p) for box in boxes(level, p))
        assert (level.picture > 0).sum() == (n + 1) * lit_pixels(p) and set(np.unique(level.picture)) == {0, 255}
        gaps = np.abs(level.corners[:, None] - level.corners[None]).max(-1)[~np.eye(n + 1, dtype=bool)]
        assert gaps.min() >= p and level.corners.min() >= 0 and level.corners.max() <= side - p


@pytest.mark.parametrize("background", ["plain", "noise", "texture", "clutter"])
def test_ink_and_histogram_do_not_tell_whether_there_is_an_object(background):
    levels = [build(Context.of("tiny_objects", seed, background=background)) for seed in range(1200)]
    answers = np.array([level.answer for level in levels])
    ink = np.array([level.picture.sum(dtype=float) for level in levels])
    assert abs(answers.mean() - 0.5) < 0.05
    assert 0.97 <= ink[answers == 1].mean() / ink[answers == 0].mean() <= 1.03
    counts = [np.histogram(level.picture, 16, (0, 256))[0] for level in levels]
    features = np.column_stack([ink, [level.picture.max() for level in levels], counts, np.ones(1200)])
    features = features / np.abs(features).max(0).clip(1)
    fit, *_ = np.linalg.lstsq(features[:600], 2.0 * answers[:600] - 1, rcond=1e-8)
    guess = features[600:] @ fit > 0
    assert max(np.mean(guess == answers[600:]), 0.5) <= 0.55


def test_who_knows_where_to_look_can_tell():
    """A linear classifier of the box that holds the object or its stand-in, on levels that it was not fitted to."""
    levels = [build(Context.of("tiny_objects", seed, side=64, ratio=1 / 16, coverage=0.0)) for seed in range(2400)]
    crops = np.array([[*boxes(level, 16)[0].ravel() / 255.0, 1.0] for level in levels])
    answers = np.array([level.answer for level in levels])
    ridge = crops[:1800].T @ crops[:1800] + np.eye(crops.shape[1])
    fit = np.linalg.solve(ridge, crops[:1800].T @ (2.0 * answers[:1800] - 1))
    assert np.mean((crops[1800:] @ fit > 0) == answers[1800:]) >= 0.97


def test_glyphs_of_all_kinds_have_the_same_ink_and_differ():
    rng = np.random.default_rng(0)
    for side in (4, 5, 8, 16):
        drawn = np.array([[draw_glyph(kind, side, rng) for _ in range(40)] for kind in range(KINDS)])
        assert (drawn.sum((2, 3)) == lit_pixels(side)).all()
    nearest = np.abs(drawn.reshape(-1, 1, 256) - drawn.mean(1).reshape(1, KINDS, 256)).sum(-1).argmin(1)
    assert np.mean(nearest == np.repeat(np.arange(KINDS), 40)) > 0.9


@pytest.mark.parametrize("settings", [{}, {"task": "which", "background": "texture"}])
def test_training_and_test_sets_share_neither_glyph_nor_layout(settings):
    sets = split(FAMILY, {"train": 60, "test": 60}, **settings)
    bitmaps, layouts = [], []
    for contexts in sets.values():
        levels = [build(c) for c in contexts]
        bitmaps.append({(box == 255).tobytes() for level in levels for box in boxes(level, 8)})
        layouts.append({level.corners.tobytes() for level in levels})
    assert len(bitmaps[0]) > 200 and not bitmaps[0] & bitmaps[1] and not layouts[0] & layouts[1]
    with pytest.raises(ValueError, match=r"too few glyphs of 4 pixels for 500 contexts"):
        split(FAMILY, {"train": 500}, side=16, ratio=1 / 16)


@pytest.mark.parametrize(("side", "ratio"), [(32, 1 / 16), (30, 0.04), (50, 0.0256)])
def test_going_to_an_object_equals_a_loop_over_pixels(side, ratio):
    contexts = split(FAMILY, {"train": 8}, task="goto", side=side, ratio=ratio)["train"]
    env = ContextualEnv(FAMILY, contexts, 8)
    obs = env.play([[(i, i)] for i in range(8)])
    p, levels = object_side(contexts.contexts[0]), [build(c) for c in contexts]
    count = -(-side // p)
    lines = [round(i * (side - p) / (count - 1)) for i in range(count)]
    agents, elapsed, rng, won = [list(level.start) for level in levels], [0] * 8, np.random.default_rng(0), 0
    for turn in range(600):
        wanted = []
        for i, level in enumerate(levels):
            shown = np.zeros((side, side), int)
            y, x = (lines[k] for k in agents[i])
            shown[y : y + p, x : x + p] = 255
            np.testing.assert_array_equal(obs[i], [level.picture, shown])
            middle = level.corners[0] + p // 2
            wanted.append(shown[tuple(middle)] == 255)
        assert turn > 0 or not any(wanted)
        actions = np.where(rng.random(8) < 0.02, 0, rng.integers(1, 5, 8))
        actions = np.where(np.array(wanted) & (rng.random(8) < 0.5), 0, actions)
        step = env.step(actions)
        obs = step.obs
        for i, action in enumerate(actions):
            elapsed[i] += 1
            over = action == 0 or elapsed[i] == 4 * count
            assert step.terminated[i] == over and step.reward[i] == (action == 0 and wanted[i])
            assert not over or step.success[i] == (action == 0 and wanted[i])
            won += int(step.reward[i])
            dy, dx = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))[action]
            moved = [min(max(agents[i][0] + dy, 0), count - 1), min(max(agents[i][1] + dx, 0), count - 1)]
            agents[i], elapsed[i] = (list(levels[i].start), 0) if over else (moved, elapsed[i])
    assert won > 20


@pytest.mark.parametrize("task", ["detect", "which"])
def test_the_right_answer_earns_one_and_any_other_nothing(task):
    contexts = split(FAMILY, {"train": 40}, task=task)["train"]
    env = ContextualEnv(FAMILY, contexts, 40)
    env.play([[(i, i)] for i in range(40)])
    answers = np.array([build(c).answer for c in contexts])
    for action in range(tiny_objects.ACTIONS[task]):
        step = env.step(np.full(40, action))
        np.testing.assert_array_equal(step.reward, answers == action)
        assert step.terminated.all() and (step.success == (answers == action)).all()
        np.testing.assert_array_equal(step.final_obs[:, 0], [build(c).picture for c in contexts])


def test_the_family_is_an_environment_for_every_task(tmp_path):
    for task in ("detect", "goto", "which"):
        path = tmp_path / f"{task}.json"
        split(FAMILY, {"train": 5}, task=task)["train"].write(path)
        check_batched_env(make("tiny_objects", 3, contexts=str(path)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 128, "ratio": 0.004}, r"the nearest is ratio=0.00390625 \(8 pixels\)"),
        ({"side": 16, "ratio": 0.01}, r"the nearest is ratio=0.0625 \(4 pixels\)"),
        ({"side": 32.5}, r"no square of 4 or more whole pixels"),
        ({"side": 512}, r"side=512 must be a number from 16 to 256"),
    ],
)
def test_impossible_objects_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        split(FAMILY, {"train": 1}, **settings)
    mixed = [Context.of("tiny_objects", 1), Context.of("tiny_objects", 2, side=64)]
    with pytest.raises(ValueError, match="one task and side"):
        FAMILY.simulators(mixed, 1, 1)


@pytest.mark.parametrize("task", ["detect", "goto", "which"])
def test_a_level_without_its_clutter_or_background_is_otherwise_the_same(task):
    """As "easier variants" want it: what is left out must not move what is left."""
    shared = {"task": task, "side": 32, "ratio": 0.0625}
    for seed in range(8):
        full, bare = (
            build(Context.of("tiny_objects", seed, **shared, coverage=coverage, background=background))
            for coverage, background in ((0.25, "clutter"), (0.0, "plain"))
        )
        assert (full.corners[0] == bare.corners[0]).all() and (full.glyphs[0] == bare.glyphs[0]).all()
        assert (full.start == bare.start).all() and full.answer == bare.answer and full.kinds[0] == bare.kinds[0]
        assert len(full.corners) > 1 == len(bare.corners)
