"""The maze against a slow second implementation, its solver against exhaustive search, and the paper's numbers."""

import itertools

import numpy as np
import pytest
from gala_envs.contextual_env import ContextualEnv
from gala_envs.families import make_family, maze
from gala_envs.splits import split

MAZE = make_family("maze")


def slow_step(level, state, action):
    """(new state, reward, over) of one level; state = (cell, objects left, steps). Plain loops over cells."""
    cell, left, steps = state
    size = len(level.walls)
    row, column = cell // size + (0, -1, 1, 0, 0)[action], cell % size + (0, 0, 0, -1, 1)[action]
    reward = 0.0
    if row < 0 or column < 0 or row >= size or column >= size or level.walls[row][column]:
        reward -= 0.01
    else:
        cell = row * size + column
    for k in sorted(left):
        if level.cells[k] == cell:
            reward += level.values[k]
            left = left - {k}
    if cell == level.key:
        return (cell, left, steps + 1), reward + 0.1, True
    late = steps + 1 >= level.limit
    return (cell, left, steps + 1), reward - late, late


@pytest.mark.parametrize("settings", [{}, {"size": 5, "blocks": 4, "limit": 20}, {"flip": 0.5, "size": 6, "limit": 40}])
def test_the_vectorised_maze_equals_a_loop_over_cells(settings):
    contexts = split(MAZE, {"train": 12}, **settings)["train"]
    env = ContextualEnv(MAZE, contexts, 12)
    env.play([[(i, i)] for i in range(12)])
    rng = np.random.default_rng(1)
    levels = [maze.build(c) for c in contexts]
    fresh = [(level.start, frozenset(range(len(level.cells))), 0) for level in levels]
    states, ended = list(fresh), 0
    for _ in range(300):
        actions = rng.integers(0, 5, 12)
        step = env.step(actions)
        for i, level in enumerate(levels):
            states[i], reward, over = slow_step(level, states[i], actions[i])
            assert step.reward[i] == pytest.approx(reward, abs=1e-6) and step.terminated[i] == over
            picture = (step.final_obs if over else step.obs)[i].reshape(5, -1)
            assert picture[maze.AGENT].argmax() == states[i][0] and picture[maze.AGENT].sum() == 1
            looks = {int(level.cells[k]) for k in states[i][1] if level.good_looking[k]}
            assert set(np.flatnonzero(picture[maze.GOOD])) == looks
            if over:
                wanted = {k for k, v in enumerate(level.values) if v < 0}
                assert step.success[i] == (states[i][0] == level.key and states[i][1] == wanted)
                states[i], ended = fresh[i], ended + 1
    assert ended > 10


def test_the_solver_equals_exhaustive_search_and_its_actions_earn_what_it_says():
    contexts = split(MAZE, {"train": 15}, size=3, goods=1, bads=1, limit=6)["train"]
    for context in contexts:
        level = maze.build(context)
        best = -np.inf
        for actions in itertools.product(range(1, 5), repeat=6):
            state, total = (level.start, frozenset(range(len(level.cells))), 0), 0.0
            for action in actions:
                state, reward, over = slow_step(level, state, action)
                total += reward
                if over:
                    break
            best = max(best, total)
        value, actions = maze.solve(level)
        assert value == pytest.approx(best, abs=1e-9)
        state, total = (level.start, frozenset(range(len(level.cells))), 0), 0.0
        for action in actions:
            state, reward, over = slow_step(level, state, action)
            total += reward
        assert over and total == pytest.approx(value, abs=1e-9)


def test_the_best_return_is_the_papers_2_1_also_with_flipped_rewards():
    for flip in (0.0, 0.5, 1.0):
        settings = {"bads": 2, "flip": flip}
        for context in split(MAZE, {"train": 30}, seed=2, **settings)["train"]:
            assert MAZE.optimal_return(context) == pytest.approx(2.1)


def test_flips_change_worth_and_not_looks_by_the_level_seed_alone():
    contexts = split(MAZE, {"train": 200}, flip=0.5)["train"]
    levels = [maze.build(c) for c in contexts]
    share = np.mean([(level.values > 0) == level.good_looking for level in levels])
    assert 0.42 < share < 0.58
    plain = [maze.build(c.with_params(flip=0.0)) for c in contexts]
    for a, b in zip(levels, plain, strict=True):
        assert (a.cells == b.cells).all() and a.start == b.start and (b.values == np.where(b.good_looking, 1, -1)).all()


def test_two_seeds_with_one_layout_are_one_mdp():
    a = maze.Context.of("maze", 1, size=5)
    twin = a.with_params(blocks=0)  # spelled out, but the same
    assert a.uid != twin.uid and MAZE.fingerprint(a) == MAZE.fingerprint(twin)
    assert MAZE.fingerprint(a) != MAZE.fingerprint(a.with_params(flip=1.0))


def test_random_starts_are_every_empty_cell_by_the_episodes_noise_alone():
    fixed = split(MAZE, {"train": 2}, size=4, blocks=3, bads=1)["train"]
    contexts = fixed.with_params(random_start=1)
    plan = [[(row % 2, seed) for seed in range(400)] for row in range(2)]
    envs = [ContextualEnv(MAZE, contexts, 2), ContextualEnv(MAZE, contexts, 2)]
    seen: list[list[int]] = [[], []]
    obs = [env.play(plan) for env in envs]
    rng = np.random.default_rng(0)
    while min(map(len, seen)) < 300:
        assert (obs[0] == obs[1]).all()
        actions = rng.integers(0, 5, 2)
        steps = [env.step(actions) for env in envs]
        for row in np.flatnonzero(steps[0].terminated):
            agent = steps[0].obs[row].reshape(5, -1)[maze.AGENT]
            assert agent.sum() == 1
            seen[row].append(int(agent.argmax()))
        obs = [step.obs for step in steps]
    for context, cells in zip(contexts, seen, strict=True):
        level = maze.build(context)
        empty = set(range(16)) - set(np.flatnonzero(level.walls.ravel())) - {level.key, *level.cells}
        assert set(cells) == empty and max(map(cells.count, empty)) < 2.5 * len(cells) / len(empty)


def test_the_best_return_with_random_starts_is_the_mean_over_them_and_the_start_is_no_part_of_the_mdp():
    context = maze.Context.of("maze", 5, size=4, blocks=4, bads=1, random_start=1)
    level = maze.build(context)
    empty = sorted(set(range(16)) - set(np.flatnonzero(level.walls.ravel())) - {level.key, *level.cells})
    assert level.empty_cells().tolist() == empty
    wanted = np.mean([maze.solve(level._replace(start=cell))[0] for cell in empty])
    assert MAZE.optimal_return(context) == pytest.approx(wanted)
    assert MAZE.fingerprint(context) != MAZE.fingerprint(context.with_params(random_start=0))
    elsewhere = level._replace(start=next(cell for cell in empty if cell != level.start))
    assert (elsewhere.places() == level.places()).all()
