"""CartPole as a picture over the context's background, against a slow drawing and the base family played alone."""

import numpy as np
import pytest
from gala_envs.contexts import Context, ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.contract import check_batched_env
from gala_envs.families import make_family
from gala_envs.families.backgrounds import draw_cartpole, natural_image
from gala_envs.splits import split
from rows_agree import assert_rows_agree

BASE = "seeds:CartPole-v1"


@pytest.fixture
def family():
    return make_family(f"backgrounds:{BASE}")


@pytest.mark.parametrize("background", ["plain", "noise", "image"])
def test_the_contract_holds_and_rows_agree(family, background):
    contexts = split(family, {"train": 4}, background=background)["train"]
    check_batched_env(ContextualEnv(family, contexts, 3), num_steps=60)
    assert_rows_agree(family, contexts)


def test_an_episode_is_the_base_familys_in_pictures(family):
    """Rewards and ends are the base's; what the object does not cover is the background, at every step."""
    contexts = split(family, {"train": 2}, ratio=0.5)["train"]
    inner = ContextSet(tuple(family.inner(c) for c in contexts), "train")
    ours, base = ContextualEnv(family, contexts, 2), ContextualEnv(make_family(BASE), inner, 2)
    plan = [[(0, 3)], [(1, 4)]]
    seen, state = ours.play(plan), base.play(plan)
    np.testing.assert_array_equal(seen[:, :3], seen[:, 3:])
    ends = 0
    for k in range(80):
        a, b = (env.step(np.array([k // 2 % 2, k // 3 % 2])) for env in (ours, base))
        for field in ("reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        ended, last = b.terminated, a.obs if a.final_obs is None else a.final_obs
        np.testing.assert_array_equal(last[:, :3], seen[:, 3:])
        np.testing.assert_array_equal(a.obs[ended, :3], a.obs[ended, 3:])
        for row, context in enumerate(contexts):
            assert (last[row, :3] != last[row, 3:]).any(), "a move was not seen"
            covered = sum(c for c, _ in draw_cartpole(b.obs[[row]].astype(float), np.array([0.5**0.5])))[0]
            assert 20 < (covered > 0).sum() < 400
            same = (a.obs[row, 3:] == family.background(context)).all(0)
            assert same[covered == 0].all() and not same[covered > 0.5].any()
        ends += ended.sum()
        seen, state = a.obs, b.obs
    assert ends and state.any()


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_the_drawing_is_gymnasiums_geometry(scale):
    """Oracle: each pixel cut into 12 x 12 points, each inside the cart, within 8 cm of the pole, or neither."""
    obs = np.array([[-1.3, 9.0, 0.2, 9.0], [0.4, 0.0, -0.1, 0.0]])
    (cart, _), (pole, _) = draw_cartpole(obs, np.full(2, scale))
    fine = (np.arange(42 * 12) + 0.5) / 12 * 4.8 / 42 / scale - 2.4 / scale
    right, up = np.meshgrid(fine, -fine)
    for row, (x, _, angle, _) in enumerate(obs):
        inside = (abs(right - x) < 0.4) & (abs(up + 1) < 0.2)
        np.testing.assert_allclose(cart[row], _pixels(inside), atol=0.06)
        points = [(x + m * np.sin(angle), m * np.cos(angle) - 1) for m in np.linspace(0, 2, 60)]
        near = np.min([np.hypot(right - px, up - py) for px, py in points], axis=0) < 0.08
        np.testing.assert_allclose(pole[row], _pixels(near), atol=0.2)
        assert pole[row].sum() == pytest.approx(_pixels(near).sum(), rel=0.08)  # a thin pole's ends are blurred
    assert cart.sum((1, 2)) == pytest.approx(np.full(2, 0.8 * 0.4 * (scale * 42 / 4.8) ** 2))


def _pixels(mask):
    return mask.reshape(42, 12, 42, 12).mean((1, 3))


def test_ratio_is_the_share_of_the_picture(family):
    def cart_area(ratio):
        context = Context.of(family.name, 1, background="plain", ratio=ratio)
        picture = ContextualEnv(family, ContextSet((context,), "train"), 1).reset(0)[0, :3]
        return picture[2].sum() / 255  # the pole has no blue

    assert cart_area(0.25) == pytest.approx(0.25 * cart_area(1.0), rel=0.1)


def test_images_have_the_spectrum_of_natural_scenes():
    """Amplitude falls as 1/f (fit over 200 images); colours are correlated by a half; levels as documented."""
    images = np.stack([natural_image(np.random.default_rng(k)) for k in range(200)]).astype(float)
    amplitude = np.abs(np.fft.fft2(images)).mean((0, 1))
    f = np.hypot(np.fft.fftfreq(42)[:, None], np.fft.fftfreq(42)[None])
    inside = (f > 0) & (f < 0.5)
    slope = np.polyfit(np.log(f[inside]), np.log(amplitude[inside]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.08)
    correlations = np.mean([np.corrcoef(image.reshape(3, -1)) for image in images], axis=0)
    np.testing.assert_allclose(correlations[np.triu_indices(3, 1)], 0.5, atol=0.08)
    assert images.mean() == pytest.approx(110, abs=1.5)
    assert images.std((2, 3)).mean() == pytest.approx(50, abs=2)


def test_train_and_test_have_different_backgrounds(family):
    sets = split(family, {"train": 20, "test": 20})
    pictures = {family.background(c).tobytes() for s in sets.values() for c in s}
    assert len(pictures) == 40
    levels = split(make_family(BASE), {"train": 20, "test": 20})
    assert [family.inner(c) for c in sets["test"]] == list(levels["test"]), "the task's levels are those of the base"


def test_the_fingerprint_sees_what_is_shown(family):
    a = Context.of(family.name, 1, scene=1)
    others = [a.with_params(scene=2), a.with_params(ratio=0.5), a.with_params(background="noise")]
    others += [Context.of(family.name, 2, scene=1)]
    assert len({family.fingerprint(c) for c in [a, *others]}) == 5
    plain = [Context.of(family.name, 1, scene=k, background="plain") for k in (1, 2)]
    assert family.fingerprint(plain[0]) == family.fingerprint(plain[1])


def test_what_cannot_be_shown_is_refused(family):
    with pytest.raises(ValueError, match=r"only CartPole-v1 can be drawn, as in backgrounds:classic:CartPole-v1"):
        make_family("backgrounds:seeds:Acrobot-v1")
    with pytest.raises(ValueError, match="background=photo must be one of plain, noise, image"):
        split(family, {"train": 1}, background="photo")
    with pytest.raises(ValueError, match=r"ratio=2.0 must be a number from 0.01 to 1"):
        split(family, {"train": 1}, ratio=2.0)


def test_contexts_of_one_task_differ_in_their_backgrounds_alone():
    family, fixed = make_family("backgrounds:classic:CartPole-v1"), {"force": 10.0, "length": 0.5, "mass": 0.1}
    contexts = family.sample(20, "R", np.random.default_rng(0), {**fixed, "background": "image"})
    assert len({family.fingerprint(context) for context in contexts}) == 20
    assert all(dict(context.params).items() >= fixed.items() for context in contexts)
    assert contexts == family.sample(20, "R", np.random.default_rng(0), {**fixed, "background": "image"})
    with pytest.raises(ValueError, match="there are only 1"):
        family.sample(20, "R", np.random.default_rng(0), {**fixed, "background": "plain"})
