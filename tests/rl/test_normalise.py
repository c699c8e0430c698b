"""Running statistics against NumPy on the pooled data."""

import numpy as np
import pytest

from gala.rl import normalise
from gala.rl.normalise import Normalizers, ObsNormalizer, ReturnScaler, RunningMoments


def test_batches_and_merges_equal_the_pooled_statistics():
    rng = np.random.default_rng(0)
    streams = [rng.normal(i, 1 + i, size=(50 + 30 * i, 3)) for i in range(4)]
    parts = []
    for stream in streams:
        moments = RunningMoments((3,))
        for start in range(0, len(stream), 17):
            moments.update(stream[start : start + 17])
        parts.append(moments.pack())
    pooled = RunningMoments.pooled(np.stack(parts), (3,))
    everything = np.concatenate(streams)
    np.testing.assert_allclose(pooled.mean, everything.mean(0), atol=1e-10)
    np.testing.assert_allclose(pooled.std, everything.std(0), atol=1e-10)
    assert pooled.count == len(everything)


def test_pack_round_trip_and_misfit():
    moments = RunningMoments((2,))
    moments.update(np.arange(10.0).reshape(5, 2))
    again = RunningMoments.unpack(moments.pack(), (2,))
    assert np.array_equal(again.pack(), moments.pack())
    with pytest.raises(ValueError, match="does not fit"):
        RunningMoments.unpack(moments.pack(), (3,))


def test_normalised_observations_have_unit_scale_and_are_clipped():
    rng = np.random.default_rng(1)
    normalizer = ObsNormalizer((2,), clip=3.0)
    data = rng.normal([5.0, -2.0], [10.0, 0.1], size=(4000, 2))
    normalizer.update(data)
    out = normalizer(data)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(out.std(0), 1, atol=0.02)
    assert np.abs(normalizer(data + 1e6)).max() == 3.0


def test_return_scale_is_the_std_of_discounted_returns_and_skips_reset_rows():
    rng = np.random.default_rng(2)
    scaler, gamma, seen, running = ReturnScaler(3, 0.9, clip=10.0), 0.9, [], np.zeros(3)
    for _ in range(200):
        reward, done, valid = rng.normal(size=3), rng.random(3) < 0.1, rng.random(3) < 0.9
        done &= valid
        running = np.where(valid, running * gamma + reward, 0.0)
        seen.extend(running[valid])
        scaled = scaler(reward[None], done[None], valid[None])[0]
        running[done] = 0.0
    np.testing.assert_allclose(scaled, reward / np.std(seen), rtol=1e-6)


def test_a_deviation_is_1_until_two_samples_were_seen_and_then_the_populations():
    moments = RunningMoments()
    assert moments.std == 1.0 and moments.count == 0
    moments.update(np.array([3.0]))
    assert moments.std == 1.0 and moments.mean == 3.0
    moments.update(np.array([5.0]))
    assert moments.std == 1.0 and moments.mean == 4.0 and moments.count == 2
    moments.update(np.array([7.0, 1.0]))
    assert moments.std == pytest.approx(5**0.5) and moments.pack().tolist() == [4.0, 4.0, 20.0]
    two = RunningMoments((2,))
    two.update(np.array([[0.0, 0.0], [4.0, 0.0]]))
    assert two.std.tolist() == [2.0, 0.0]


def test_empty_batches_and_empty_streams_change_nothing():
    moments = RunningMoments((2,))
    moments.update(np.zeros((0, 2)))
    empty = RunningMoments.pooled(np.stack([moments.pack()] * 2), (2,))
    assert moments.count == empty.count == 0 and empty.mean.tolist() == [0, 0] and empty.std.tolist() == [1, 1]
    one = RunningMoments((2,))
    one.update(np.array([[1.0, 3.0]]))
    pooled = RunningMoments.pooled(np.stack([moments.pack(), one.pack(), one.pack()]), (2,))
    assert pooled.count == 2 and pooled.mean.tolist() == [1.0, 3.0] and pooled.std.tolist() == [0.0, 0.0]
    back = RunningMoments.unpack(np.array([2.0, 5.0, 8.0]), ())
    assert (back.count, back.mean, back.m2, back.std) == (2.0, 5.0, 8.0, 2.0)


def test_what_never_varied_is_divided_by_a_ten_thousandth_and_clipped_on_both_sides():
    normalizer = ObsNormalizer((1,), clip=3.0)
    normalizer.update(np.array([[2.0], [2.0]]))
    values = np.array([[2.0], [2.00001], [1.99998], [9.0], [-9.0]])
    np.testing.assert_allclose(normalizer(values).ravel(), [0.0, 0.1, -0.2, 3.0, -3.0], rtol=1e-5)
    scaler = ReturnScaler(2, 0.5, clip=0.75)
    no, yes = np.zeros((1, 2), bool), np.ones((1, 2), bool)
    assert scaler(np.array([[0.0, 0.0]]), no, yes).tolist() == [[0.0, 0.0]]
    assert scaler.own.std == 0.0
    scaler.own.m2 = np.array(scaler.own.count * 4.0)  # a deviation of 2, but for what the next rewards add
    (scaled,) = scaler(np.array([[1.0, -1.0]]), no, yes)
    np.testing.assert_allclose(scaled, np.array([1, -1]) / np.sqrt((2 * 4 + 2) / 4 + 1e-8), rtol=1e-6)
    assert scaler(np.array([[99.0, -99.0]]), no, yes).tolist() == [[0.75, -0.75]]
    calm = ReturnScaler(1, 0.5, clip=1e9)
    calm(np.zeros((1, 1)), no[:, :1], yes[:, :1])
    assert calm(np.ones((1, 1)), no[:, :1], no[:, :1])[0, 0] == 1.0, "one sample: not divided"
    calm(np.zeros((1, 1)), no[:, :1], yes[:, :1])
    np.testing.assert_allclose(calm(np.ones((1, 1)), no[:, :1], no[:, :1]), [[1e4]], rtol=1e-6)
    calm.applied = RunningMoments()  # of several learners, whose returns have all been the same
    calm.applied.update(np.array([3.0, 3.0]))
    np.testing.assert_allclose(calm(np.ones((1, 1)), no[:, :1], yes[:, :1]), [[1e4]], rtol=1e-6)
    calm.clip = 0.25
    scaled = [calm(np.full((1, 1), x), no[:, :1], yes[:, :1])[0, 0] for x in (9.0, -9.0, 2e-5, -2e-5)]
    assert scaled == pytest.approx([0.25, -0.25, 0.2, -0.2], rel=1e-6)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_rollout_is_learned_from_as_its_steps_one_by_one(pooled):
    """Whoever normalises by pooled statistics may take in a rollout at a time: only rounding differs."""
    rng = np.random.default_rng(3)
    obs, reward = rng.normal(5, 2, (6, 4, 3)), rng.normal(size=(6, 4)).astype(np.float32)
    done, valid = rng.random((6, 4)) < 0.3, rng.random((6, 4)) < 0.8
    one, other = (Normalizers(ObsNormalizer((3,), 9.0), ReturnScaler(4, 0.9, 9.0)) for _ in range(2))
    for each in (one, other):
        each.parts["obs_moments"].update(obs[0] - 1)
        each.parts["return_moments"](2 * reward[:2], done[:2], valid[:2])
    if pooled:
        for each in (one, other):
            each.pool(np.stack([each.pack(), 3 * each.pack()]))
    whole = one.parts["return_moments"](reward, done, valid)
    parts = [other.parts["return_moments"](reward[t : t + 1], done[t : t + 1], valid[t : t + 1]) for t in range(6)]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-6)
    for batch in obs:
        one.parts["obs_moments"].update(batch)
        other.parts["obs_moments"].update(batch)
        other.parts["obs_moments"].own.pack()  # which takes in what waits
        np.testing.assert_array_equal(one.parts["obs_moments"](batch), other.parts["obs_moments"](batch))
    np.testing.assert_allclose(one.pack(), other.pack(), rtol=1e-12)
    assert one.parts["obs_moments"].own.count == 4 + 24


def test_several_normalisers_lie_one_after_the_other_and_take_up_what_they_saw():
    def some():
        return Normalizers(ObsNormalizer((2, 3), 5.0), ReturnScaler(4, 0.9, 5.0))

    rng, first = np.random.default_rng(3), some()
    first.parts["obs_moments"].update(rng.normal(size=(7, 2, 3)))
    first.parts["return_moments"].own.update(rng.normal(size=9))
    packed = first.pack()
    assert first.size == len(packed) == (1 + 2 * 6) + (1 + 2 * 1)
    assert (packed[0], packed[13]) == (7, 9)
    again = some()
    again.restore(packed)
    assert np.array_equal(again.pack(), packed)
    for name, part in again.parts.items():
        assert part.applied is part.own and np.array_equal(part.applied.std, first.parts[name].own.std)
    again.pool(np.stack([packed, packed]))
    assert [part.applied.count for part in again.parts.values()] == [14, 18]
    assert np.array_equal(again.pack(), packed)  # what others saw is applied, and not its own


def test_rewards_are_scaled_by_pooled_moments_while_a_learners_own_go_on():
    """Where learners pool, what divides is theirs, and what this one has seen is counted apart."""
    rng, gamma = np.random.default_rng(3), 0.9
    scaler, running, seen = ReturnScaler(3, gamma, 1e9), np.zeros(3), []
    scaler.applied = RunningMoments()
    scaler.applied.update(np.array([-5.0, 0.0, 1.0, 8.0]))
    std = float(scaler.applied.std)
    assert std not in (1.0, 2.0)
    for _ in range(4):
        reward, done, valid = rng.normal(3.0, 5.0, (5, 3)), rng.random((5, 3)) < 0.2, rng.random((5, 3)) < 0.8
        assert scaler(reward, done, valid) == pytest.approx(reward / np.sqrt(std * std + 1e-8), rel=1e-5)
        for t in range(5):
            running = np.where(valid[t], running * gamma + reward[t], 0.0)
            seen += running[valid[t]].tolist()
            running[done[t]] = 0.0
    assert scaler.own.count == len(seen) and float(scaler.own.mean) == pytest.approx(np.mean(seen))


def test_a_learner_without_normalisers_has_no_statistics_and_with_one_it_has_those():
    assert not Normalizers(None, None) and Normalizers(None, None).size == 0
    for parts, names in (
        ((ObsNormalizer((2,), 5.0), None), ["obs_moments"]),
        ((None, ReturnScaler(4, 0.9, 5.0)), ["return_moments"]),
    ):
        one = Normalizers(*parts)
        assert one and list(one.parts) == names and one.size == len(one.pack())


def test_what_a_learner_has_seen_waits_for_a_while_and_is_then_taken_in_unasked():
    """Where others' statistics are applied; what waits takes memory."""
    normalizer, taken = ObsNormalizer((1,), 9.0), []
    normalizer.applied, own = RunningMoments((1,)), normalizer.own
    for i in range(2 * normalise._MOST_UNREAD + 1):
        normalizer.update(np.full((2, 1), float(i)))
        taken.append(own.count)
    half = normalise._MOST_UNREAD
    assert taken == [0.0] * (half - 1) + [2.0 * half] * half + [4.0 * half] * 2
    assert normalizer.own is own and own.count == 4 * half + 2 and own.mean.tolist() == [float(half)]


def test_a_mask_at_the_end_of_an_observation_stays_as_it_is():
    obs = np.random.default_rng(0).normal(3.0, 2.0, (50, 6))
    obs[:, 5] = np.arange(50) % 2
    plain, masked = ObsNormalizer((5,), 10.0), ObsNormalizer((5,), 10.0, num_mask=1)
    plain.update(obs[:, :5])
    masked.update(obs)
    seen = masked(obs)
    assert (seen[:, :5] == plain(obs[:, :5])).all() and (seen[:, 5] == obs[:, 5]).all()
    assert masked.own.mean.shape == (5,)
