"""An episode depends on its context, its noise seed and the actions, and on nothing else."""

import numpy as np
from gala_envs.contextual_env import ContextualEnv


def assert_rows_agree(family, contexts, num_rows=64, num_steps=60, **options):
    """Rows 0 and 1, and the last, of ``num_rows`` against the same episodes alone in one row.

    In the many rows, every other row plays an episode of another context and noise seed, and the last row has played
    another context before. ``options`` go to ``ContextualEnv``.
    """
    rng = np.random.default_rng(5)
    many = ContextualEnv(family, contexts, num_rows, **options)
    one = ContextualEnv(family, contexts, 1, **options)
    many.action_space.seed(3)
    actions = np.array([many.action_space.sample() for _ in range(num_steps)])
    episodes = [(row % len(contexts), 100 + row) for row in range(num_rows)]
    many.play([[((row + 1) % len(contexts), int(rng.integers(99)))] for row in range(num_rows)])
    for action in actions[:7]:
        many.step(np.array([action] * num_rows))
    seen = _episode(many, episodes, actions)
    for row in (0, 1, num_rows - 1):
        alone = _episode(one, episodes[row : row + 1], actions)
        for field, (a, b) in enumerate(zip(seen, alone, strict=True)):
            np.testing.assert_array_equal(a[:, row], b[:, 0], err_msg=f"row {row} of {num_rows}, field {field}")
    assert any((seen[0][:, 0] != seen[0][:, 1]).ravel()), "two contexts were played as one"
    many.close()
    one.close()


def _episode(env, episodes, actions):
    obs = [env.play([[e] for e in episodes])]
    rest = []
    for action in actions:
        s = env.step(np.array([action] * env.num_envs))
        obs.append(s.obs)
        rest.append((s.reward, s.terminated, s.truncated))
    return [np.stack(obs), *map(np.stack, zip(*rest, strict=True))]
