"""Images with one small object: exact construction, no way round finding it, and learnable where it is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gala import cli
from gala.config.parse import parse_options
from gala.config.supervised import SupervisedConfig, TinyConfig, geometry, validate
from gala.supervised.comparison import build
from gala.supervised.comparison.build import ComparisonJob
from gala.supervised.comparison.data import load, make_model, num_clutter, pack, unpack
from gala.supervised.comparison.learner import train
from gala.supervised.comparison.report import row
from gala.supervised.tiny import glyphs
from gala.supervised.tiny.images import TinyImages, clutter_places, object_places
from gala.supervised.tiny.oracle import oracle_accuracy

sklearn = pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def pools():
    pytest.importorskip("matplotlib")
    return {"digits": glyphs.handwritten(3, 0.2, 0), "fonts": glyphs.rendered(3, 12, 0.2, 0)}


def images(pool, times, size=2000, split="train", seed=0):
    side = times * pool.objects.shape[-1]
    n = num_clutter(TinyConfig(), pool.objects.shape[-1], side)
    return TinyImages(pool, side, n, size=size, split=split, seed=seed)


def pasted(made, i):
    """The image i by one loop over its pieces, in the words of the paper: added, and clipped."""
    scene, p = made.scene(slice(i, i + 1)), made.object_px
    canvas = np.zeros((made.side, made.side))
    own = made.glyphs.others[scene.stand_in[0]] if scene.objects[0] < 0 else made.glyphs.objects[scene.objects[0]]
    for (y, x), piece in zip(scene.corners[0], [own, *made.glyphs.others[scene.clutter[0]]], strict=True):
        canvas[y : y + p, x : x + p] += piece
    return np.minimum(canvas, 1)


@pytest.mark.parametrize("kind", ["digits", "fonts"])
@pytest.mark.parametrize(("times", "n"), [(2, 1), (4, 5), (8, 19)])
def test_an_image_is_its_pieces_and_nothing_covers_the_object(pools, kind, times, n):
    made = images(pools[kind].train, times, size=40)
    scene, p = made.scene(slice(None)), made.object_px
    assert scene.clutter.shape == (40, n) and (scene.objects >= 0).tolist() == [True, False] * 20
    assert made.labels.tolist() == [1, 0] * 20
    far = np.abs(scene.corners[:, 1:] - scene.corners[:, :1]).max(-1)
    assert far.min() >= p and scene.corners.min() >= 0 and scene.corners.max() <= made.side - p
    every = made[:]
    assert every.shape == (40, 1, made.side, made.side) and every.dtype == torch.float32
    for i in range(8):
        np.testing.assert_allclose(every[i, 0].numpy(), pasted(made, i), atol=1e-6)
    own = np.where((scene.objects >= 0)[:, None, None], 1, 0)
    expected = own * made.glyphs.objects[scene.objects] + (1 - own) * made.glyphs.others[scene.stand_in]
    np.testing.assert_array_equal(made.crops(slice(None)).numpy(), np.minimum(expected, 1))


@pytest.mark.parametrize(("side", "p"), [(16, 8), (19, 8), (24, 8), (33, 6)])
def test_every_place_that_is_free_comes_up_once(side, p):
    m = side - p + 1
    free = {
        (y, x)
        for y in range(m)
        for x in range(m)
        if any(abs(y - b) >= p or abs(x - a) >= p for b in range(m) for a in range(m))
    }
    assert set(map(tuple, object_places(side, p))) == free
    for place in object_places(side, p)[:: 7 if side > 20 else 1]:
        allowed = [(y, x) for y in range(m) for x in range(m) if max(abs(y - place[0]), abs(x - place[1])) >= p]
        draws = (np.arange(len(allowed)) + 0.5) / len(allowed)
        found = clutter_places(draws[None], place[None], side, p)[0]
        assert list(map(tuple, found)) == allowed


def test_an_image_depends_on_its_index_alone_and_sets_are_streamed(pools):
    made, smaller = images(pools["digits"].train, 4, size=100), images(pools["digits"].train, 4, size=10)
    chosen = torch.tensor([7, 3, 3])
    assert torch.equal(made[chosen], smaller[:][chosen]) and torch.equal(made.take(chosen)[:], made[chosen])
    assert made.take(chosen).labels.tolist() == [0, 0, 0] and len(made.take(chosen)) == 3
    for other in (
        images(pools["digits"].train, 4, size=10, seed=1),
        images(pools["digits"].train, 4, size=10, split="test"),
    ):
        assert not any(torch.equal(a, b) for a, b in zip(other[:], smaller[:], strict=True))
    huge = images(pools["digits"].train, 32, size=10**6)
    assert huge[torch.tensor([10**6 - 1])].shape == (1, 1, 256, 256)


@pytest.mark.parametrize("kind", ["digits", "fonts"])
def test_training_and_test_share_no_glyph(pools, kind):
    train, test = ({g.tobytes() for pool in split for g in pool} for split in pools[kind])
    assert len(train) > 1300 and len(test) > 300 and not train & test


@pytest.mark.parametrize(("kind", "times"), [("digits", 2), ("digits", 8), ("fonts", 4)])
def test_ink_and_histogram_say_nothing(pools, kind, times):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    def told(pool, split):
        x = images(pool, times, split=split)[:].flatten(1)
        levels = [((x > a) & (x <= a + 0.2)).sum(1) for a in np.arange(-0.2, 1, 0.2)]
        return torch.stack([x.sum(1), x.amax(1), *levels], 1).numpy()

    x, x_test = told(pools[kind].train, "train"), told(pools[kind].test, "test")
    y = np.array([1, 0] * 1000)
    assert 0.97 <= x[y == 1, 0].mean() / x[y == 0, 0].mean() <= 1.03
    scale = StandardScaler().fit(x)
    model = LogisticRegression(max_iter=1000).fit(scale.transform(x), y)
    assert model.score(scale.transform(x_test), y) <= 0.55


@pytest.mark.parametrize(("kind", "least"), [("digits", 0.97), ("fonts", 0.99)])
def test_who_knows_the_place_knows_the_class(pools, kind, least):
    small = [oracle_accuracy(images(p.train, 2), images(p.test, 2, split="test")) for p in [pools[kind]]]
    assert small[0] >= least
    from sklearn.linear_model import LogisticRegression

    def crops(pool, split):
        return images(pool, 4, split=split).crops(slice(None)).flatten(1).numpy()

    model = LogisticRegression(max_iter=2000).fit(crops(pools[kind].train, "train"), np.array([1, 0] * 1000))
    assert abs(model.score(crops(pools[kind].test, "test"), np.array([1, 0] * 1000)) - small[0]) <= 0.02


def trained(*words):
    config = parse_options(SupervisedConfig, ["preset=tiny/digits", "tiny.ratio=0.25", "optim.lr=0.003", *words])
    data, job = load(config), ComparisonJob("sgp", "off", 1)
    return row(config, job, [train(config, job, 0, data, None)], data)


@pytest.mark.long
def test_a_network_learns_from_the_images_and_nothing_from_shuffled_labels():
    learned = trained("iterations=250", "tiny.train_images=8000", "tiny.test_images=600")
    assert learned["test_accuracy"] >= 0.8
    control = trained("iterations=200", "tiny.train_images=300", "tiny.permuted_labels=true", "tiny.test_images=600")
    assert control["train_accuracy"] >= 0.6 and abs(control["test_accuracy"] - 0.5) <= 0.1


def test_data_survives_the_way_to_a_learner():
    config = parse_options(SupervisedConfig, ["preset=tiny/glyphs", "tiny.train_images=20"])
    data = load(config)
    there = unpack(pack(data))
    assert torch.equal(there.train_images[:], data.train_images[:]) and torch.equal(there[1], data[1])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), (8, 32)),
        (("tiny.ratio=0.0156",), (8, 64)),
        (("data=tiny-glyphs", "tiny.side=64", "tiny.ratio=0.0244"), (10, 64)),
        (("data=tiny-glyphs", "tiny.object_px=12", "tiny.ratio=0.001"), (12, 379)),
    ],
)
def test_the_sizes_follow_from_the_ratio(words, expected):
    config = parse_options(SupervisedConfig, ["data=tiny-digits", *words])
    assert geometry(config.data, config.tiny) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data=tiny-digits", "tiny.object_px=9"), "handwritten digits have 8 pixels"),
        (("data=tiny-glyphs", "tiny.object_px=9", "tiny.side=64"), "not both"),
        (("data=tiny-glyphs", "tiny.side=32", "tiny.ratio=0.01"), "digits need 6 or more"),
        (("data=tiny-glyphs", "tiny.side=40", "tiny.ratio=0.026"), "the nearest for side 40 is 0.0225"),
        (("tiny.ratio=0.01",), "not of data=digits"),
        (("data=tiny-digits", "tiny.ratio=0.5"), "tiny.ratio=0.5 must be between"),
    ],
)
def test_sizes_that_cannot_be_are_refused(words, said):
    with pytest.raises(ValueError, match=said):
        validate(parse_options(SupervisedConfig, words))


def test_the_receptive_field_is_one_that_the_strides_make():
    config = parse_options(SupervisedConfig, ["data=tiny-digits", "model.receptive_field=33"])
    with pytest.raises(ValueError, match=r"strides=2,1,1,1 it can be 3, 5, 9, 13, 17"):
        make_model(config, 0)
    sizes = {
        build.num_parameters(parse_options(SupervisedConfig, ["data=tiny-digits", f"model.receptive_field={r}"]))
        for r in (3, 5, 9, 13, 17)
    }
    assert max(sizes) <= 1.03 * min(sizes)


@pytest.mark.long
def test_learners_gossip_on_tiny_objects(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["preset=tiny/digits", "tiny.ratio=0.25", "learners=2", "iterations=4", "tiny.test_images=50", "out=out"]
    assert cli.main(["supervised", *words, "--dry-run"]) == 0
    assert cli.main(["supervised", *words]) == 0
    out, err = capsys.readouterr()
    assert err == "" and max(map(len, out.splitlines())) <= 80
    assert "objects of 8 px in images of 16: 25 % of the image, 1 piece of clutter" in out
    assert "\n1 training of 2 learners on" in out
    (found,) = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert found["total_weight"] == pytest.approx(2, abs=1e-9) and found["bytes_sent"] > 0
