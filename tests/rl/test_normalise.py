"""Running statistics against NumPy on the pooled data."""

import numpy as np
import pytest

from gala.rl.normalise import ObsNormalizer, ReturnScaler, RunningMoments


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
        scaled = scaler(reward, done, valid)
        running[done] = 0.0
    np.testing.assert_allclose(scaled, reward / np.std(seen), rtol=1e-6)
