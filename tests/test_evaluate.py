import dataclasses
import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from gala_envs import pictures
from gala_envs.registry import make
from scipy import stats

import gala
from gala import cli
from gala.build.envs import make_env, probe_spaces
from gala.build.learning import make_normalizer
from gala.build.policy import make_policy
from gala.build.trust import remember
from gala.config.parse import override, parse_config
from gala.evaluation import evaluate, film
from gala.runs.evaluations import evaluation_text, read_evaluations
from gala.runs.run_dir import RunDir

SMALL = ("model.hidden=8", "envs_per_learner=2", "torch_threads=1")


def make_run(path, *words, weights=(1.0,), env_steps=1):
    """A run whose learners' parameters are random, saved as a training would save them. Returns it and the policies."""
    config = parse_config([*SMALL, f"run={path}", f"learners={len(weights)}", *words])
    run = RunDir.create(config, words, overwrite=False)
    remember(config)
    spaces = probe_spaces(config)
    policies = [make_policy(config, spaces) for _ in weights]
    for rank, (policy, weight) in enumerate(zip(policies, weights, strict=True)):
        generator = torch.Generator().manual_seed(rank)
        with torch.no_grad():
            for p in policy.parameters():
                p.normal_(std=0.3, generator=generator)
        tensors = {"policy": dict(policy.state_dict())}
        if config.normalize.obs:
            normalizer = make_normalizer(config, spaces)
            normalizer.update(np.random.default_rng(rank).normal(rank, 2.0, (50 + rank, *spaces.obs.shape)))
            tensors["obs_moments"] = {"packed": torch.from_numpy(normalizer.own.pack())}
        run.write_part("staging", f"learner{rank}", tensors, {"gossip": {"weight": weight}})
    meta = {"env_steps": env_steps, "ranks": list(range(len(policies))), "moments": []}
    run.commit_checkpoint("staging", ["latest"], meta)
    return run, policies


def test_short_episodes_do_not_count_more_than_long_ones(tmp_path):
    run, _ = make_run(tmp_path / "run", "env.id=helper_envs:TwoLengths-v0")
    result = evaluate.evaluate_run(run, episodes=32)  # 16 simulators play one short and one long episode each
    assert result["return_mean"] == result["length_mean"] == 50.5 and result["episodes"] == 32
    assert sorted(result["returns"]) == [1.0] * 16 + [100.0] * 16
    std = 49.5 * (32 / 31) ** 0.5
    assert result["return_std"] == pytest.approx(std)
    assert result["return_ci95"] == pytest.approx(stats.t.interval(0.95, 31, 50.5, std / 32**0.5))


def test_what_an_environment_prints_is_no_part_of_the_json(tmp_path, capsys):
    make_run(tmp_path / "run", "env.id=helper_envs:Chatty-v0")
    capsys.readouterr()
    assert cli.main(["eval", str(tmp_path / "run"), "episodes=2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["episodes"] == 2, out[:300]
    assert "a simulator that says much" in err


def test_one_episode_has_no_interval_and_a_cut_episode_is_told(tmp_path, capsys):
    run, _ = make_run(tmp_path / "run", "env.id=helper_envs:TwoLengths-v0")
    assert evaluate.evaluate_run(run, episodes=1)["return_ci95"] == [None, None]
    assert cli.main(["eval", str(run.path), "episodes=1", "env.max_episode_steps=7"]) == 0
    assert "over 1 episode of" in (out := capsys.readouterr().out) and "CI" not in out
    (told,) = read_evaluations(run.path)
    assert evaluation_text(told).startswith("return 1 (no interval) over 1 sampled episode, cut at 7 steps, checkpoint")
    low, high = gala.Run(run.path).evaluate(episodes=1).return_ci95
    assert math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("episodes", [1, 5, 16, 17, 40])
def test_exactly_the_wanted_episodes_are_played_in_equal_shares(tmp_path, episodes):
    run, (policy,) = make_run(tmp_path / "run", "env.id=helper_envs:TwoLengths-v0")
    env = make_env(run.config, 16)
    returns, lengths = evaluate.play(env, policy, None, episodes, mode="greedy", seed=3)
    quotas = [len(range(row, episodes, 16)) for row in range(16)]
    assert lengths == returns == [(1, 100)[k % 2] for quota in quotas for k in range(quota)]


def test_an_episode_that_does_not_end_is_an_error_or_cut_off(tmp_path, monkeypatch, capsys):
    run, (policy,) = make_run(tmp_path / "run", "env.id=helper_envs:Endless-v0")
    env = make_env(run.config, 2)
    with pytest.raises(ValueError, match=r"after 50 decisions \(0 of 2 episodes are done\).*env.max_episode_steps=N"):
        evaluate.play(env, policy, None, 2, mode="greedy", seed=3, longest=50)
    lengths = make_env(run.config, 1, id="helper_envs:TwoLengths-v0")  # 1, 100: the limit is each episode's own
    assert evaluate.play(lengths, policy, None, 4, mode="greedy", seed=3, longest=100)[1] == [1, 100, 1, 100]

    monkeypatch.setattr(evaluate, "LONGEST_EPISODE", 20)
    assert cli.main(["eval", str(run.path), "episodes=3"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "after 20 decisions" in err
    assert cli.main(["eval", str(run.path), "episodes=3", "env.max_episode_steps=30", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["returns"] == [30.0] * 3
    assert cli.main(["eval", str(run.path), "env.max_episode_steps=-1"]) == 2
    assert "env.max_episode_steps=-1 must be 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize(("env_steps", "said"), [(0, ": nothing was learned yet"), (2500, "")])
def test_how_long_the_policy_was_trained_is_said(tmp_path, capsys, env_steps, said):
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1", weights=(1.0, 1.0), env_steps=env_steps)
    assert cli.main(["eval", str(run.path), "episodes=1"]) == 0
    assert f"checkpoint latest of {env_steps:,} env_steps, learner consensus{said}\n" in capsys.readouterr().out
    assert cli.main(["eval", str(run.path), "episodes=1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["checkpoint"], told["env_steps"]) == ("latest", env_steps)


def test_progress_is_shown_on_a_terminal_only(tmp_path, monkeypatch, capsys):
    run, _ = make_run(tmp_path / "run", "env.id=helper_envs:TwoLengths-v0")
    words = ["eval", str(run.path), "episodes=4"]
    assert cli.main(words) == 0 and capsys.readouterr().err == ""
    monkeypatch.setattr(evaluate, "_PROGRESS_S", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert cli.main(words) == 0
    shown = capsys.readouterr().err
    assert "4 of 4 episodes, 1 decisions" in shown and shown.endswith("\r\x1b[K")


@pytest.mark.parametrize("env_id", ["Endless", "EndlessOnceDrawn"])
def test_a_video_that_cannot_be_made_costs_no_evaluation(tmp_path, env_id, capsys):
    pytest.importorskip("imageio_ffmpeg")
    run, _ = make_run(tmp_path / "run", f"env.id=helper_envs:{env_id}-v0")
    words = ["episodes=2", "env.max_episode_steps=9", f"video={tmp_path / 'x.mp4'}", "--json"]
    status = cli.main(["eval", str(run.path), *words])
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and not (tmp_path / "x.mp4").exists()
    if env_id == "Endless":  # it is known before the episodes are played
        assert (status, out) == (2, "") and "render() gives no picture" in err
    else:
        assert status == 1 and json.loads(out)["returns"] == [9.0, 9.0] and "the screen is gone" in err


def test_a_greedy_policy_repeats_itself_and_its_seed_decides(tmp_path):
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1")
    a, b, c = (evaluate.evaluate_run(run, episodes=8, mode="greedy", seed=seed)["returns"] for seed in (1, 1, 2))
    assert a == b != c
    x, y = (evaluate.evaluate_run(run, episodes=8, mode="sampled", seed=1)["returns"] for _ in range(2))
    assert x == y != a


def test_the_consensus_is_the_mass_weighted_mean_and_pools_what_all_have_seen(tmp_path):
    weights = (0.25, 1.5, 1.25)
    words = ("env.id=CartPole-v1", "algo=gala", "normalize.obs=true")
    run, policies = make_run(tmp_path / "run", *words, weights=weights)
    spaces = probe_spaces(run.config)
    policy, normalizer = evaluate.load_policy(run, run.config, spaces, "latest", "consensus")
    each = [dict(p.named_parameters()) for p in policies]
    for name, value in policy.named_parameters():
        by_hand = sum(w * p[name].detach().double() for w, p in zip(weights, each, strict=True)) / 3.0
        assert torch.allclose(value.double(), by_hand, atol=1e-7)
    samples = np.concatenate([np.random.default_rng(r).normal(r, 2.0, (50 + r, 4)) for r in range(3)])
    assert normalizer.applied.count == 153
    assert np.allclose(normalizer.applied.mean, samples.mean(0)) and np.allclose(normalizer.applied.std, samples.std(0))
    alone, _ = evaluate.load_policy(run, run.config, spaces, "latest", 1)
    assert all(torch.equal(value, each[1][name]) for name, value in alone.named_parameters())


@pytest.mark.parametrize("words", [("algo=gala", "gossip.mixing=none"), ("algo=independent",)])
def test_learners_that_never_exchanged_are_not_averaged(tmp_path, capsys, words):
    words = ("env.id=CartPole-v1", "normalize.obs=true", *words)
    run, policies = make_run(tmp_path / "run", *words, weights=(1.0, 1.0, 1.0))
    policy, normalizer = evaluate.load_policy(run, run.config, probe_spaces(run.config), "latest", "consensus")
    expected = dict(policies[0].named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in policy.named_parameters())
    samples = np.random.default_rng(0).normal(0, 2.0, (50, 4))  # learner 0's, and nobody else's
    assert normalizer.applied.count == 50 and np.allclose(normalizer.applied.mean, samples.mean(0))
    assert cli.main(["eval", str(run.path), "episodes=1"]) == 0
    played = "learner 0 (nothing is averaged in this run)"
    assert f"checkpoint latest of 1 env_steps, {played}\n" in capsys.readouterr().out
    (told,) = read_evaluations(run.path)
    assert evaluation_text(told).endswith(f", {played}") and told["learner"] == "consensus"


def test_each_shard_counts_with_its_own_weight(tmp_path):
    run, policies = make_run(tmp_path / "run", "env.id=CartPole-v1", "algo=gala", weights=(1.0, 1.0))
    flats = [torch.nn.utils.parameters_to_vector(p.parameters()).detach().double() for p in policies]
    half = len(flats[0]) // 2
    slices = [[(half, 0.25), (len(flats[0]) - half, 1.5)], [(half, 1.75), (len(flats[0]) - half, 0.5)]]
    for rank, policy in enumerate(policies):
        meta = {"gossip": {}, "slice_weights": slices[rank]}
        run.write_part("staging", f"learner{rank}", {"policy": dict(policy.state_dict())}, meta)
    run.commit_checkpoint("staging", ["latest"], {"env_steps": 1, "ranks": [0, 1], "moments": []})
    policy, _ = evaluate.load_policy(run, run.config, probe_spaces(run.config), "latest", "consensus")
    found = torch.nn.utils.parameters_to_vector(policy.parameters()).detach().double()
    first = (0.25 * flats[0] + 1.75 * flats[1])[:half] / 2.0
    second = (1.5 * flats[0] + 0.5 * flats[1])[half:] / 2.0
    assert torch.allclose(found, torch.cat([first, second]), atol=1e-7)


def test_a_checkpoint_of_other_spaces_is_refused_in_one_line(tmp_path, capsys):
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1")
    run.replace_config(override(run.config, ["env.id=Acrobot-v1"], ["env.id"]))
    assert cli.main(["eval", str(run.path), "episodes=1"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "does not fit this environment's spaces" in err


def read(path):
    import imageio.v2 as imageio

    with imageio.get_reader(path) as reader:
        return list(reader.iter_data())  # the reader's own length is infinite


@pytest.mark.parametrize(
    ("env_id", "words", "shape"),
    [
        ("InvertedPendulum-v5", ["model.hidden=8"], (480, 480, 3)),
        ("helper_envs:Catch-v0", ["model.encoder=minatar_cnn"], (160, 160, 3)),
        ("MinAtar/Breakout-v1", ["model.encoder=minatar_cnn"], (240, 240, 3)),
        ("ALE/Breakout-v5", ["model.encoder=a3c_cnn", "env.max_episode_steps=30"], (210, 160, 3)),
    ],
)
def test_a_video_holds_a_frame_of_every_decision_of_one_episode(tmp_path, env_id, words, shape):
    pytest.importorskip("imageio_ffmpeg")
    if env_id.startswith(("ALE", "MinAtar")):
        pytest.importorskip({"A": "ale_py", "M": "minatar"}[env_id[0]])
    if env_id == "InvertedPendulum-v5":
        try:
            pictures.check_gl()
        except ValueError as error:
            pytest.skip(str(error))
    run, (policy,) = make_run(tmp_path / "run", f"env.id={env_id}", *words)
    path = tmp_path / "film.mp4"
    evaluate.evaluate_run(run, episodes=1, video=path, mode="greedy", seed=5)
    frames = read(path)
    assert all(frame.shape == shape for frame in frames)
    first, last = frames[0].astype(int), frames[-1].astype(int)
    assert np.abs(first - last).max() > 50  # something moves
    if "ALE" in env_id:
        assert len(frames) == 31
        return
    config = run.config
    env = make_env(config, 1)
    _, (length,) = evaluate.play(env, policy, None, 1, mode="greedy", seed=5)
    assert len(frames) == length + 1


def test_the_last_picture_is_of_the_end_and_not_of_the_next_episode():
    frames = []
    catch = make("helper_envs:Catch-v0", 1)
    env = film.Filmed(catch, lambda obs: np.flatnonzero(obs[0].any(1)), frames.append)  # the ball's row
    env.reset(0)
    while not env.step(np.ones(1, int)).episode_over[0]:
        pass
    assert [int(row) for (row,) in frames] == list(range(10)) and env.frames == 10


def test_channels_are_drawn_in_their_colours():
    obs = np.zeros((4, 10, 10), np.uint8)
    obs[2, 0, 1] = obs[1, 9, 9] = obs[3, 9, 9] = 1
    image = pictures.draw_channels(obs)
    assert image.shape == (240, 240, 3) and image.any(-1).sum() == 2 * 24 * 24
    assert (image[:24, 24:48] == pictures._PALETTE[2]).all() and (image[216:, 216:] == pictures._PALETTE[1]).all()


def test_a_video_without_its_extra_names_the_pip_command(tmp_path, monkeypatch, capsys):
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if "imageio" in name else find(name, *a))
    assert cli.main(["eval", str(run.path), "episodes=1", f"video={tmp_path / 'x.mp4'}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "pip install '" in err and "'imageio>=" in err


def test_what_gymnasium_lacks_for_drawing_is_said_in_one_line(tmp_path, capsys):
    if importlib.util.find_spec("pygame"):
        pytest.skip("pygame is installed")
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1")
    assert cli.main(["eval", str(run.path), "episodes=1", f"video={tmp_path / 'x.mp4'}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "CartPole-v1 cannot be drawn: pygame is not installed" in err


def test_mujoco_without_a_gl_backend_says_what_to_set(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mujoco")
    pytest.importorskip("imageio_ffmpeg")
    run, _ = make_run(tmp_path / "run", "env.id=InvertedPendulum-v5")
    monkeypatch.setenv("MUJOCO_GL", "none_such")
    assert cli.main(["eval", str(run.path), "episodes=1", f"video={tmp_path / 'x.mp4'}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "MUJOCO_GL=egl" in err and "MUJOCO_GL=osmesa" in err
    assert not (tmp_path / "x.mp4").exists()


def test_a_film_of_atari_shows_the_policy_what_it_was_trained_on(tmp_path):
    """Oracle: ale-py's own vector environment, in a game that neither side opens with no-ops or the fire button."""
    pytest.importorskip("ale_py")
    config = parse_config(["env.id=ALE/Freeway-v5", "env.noop_max=0", "model.encoder=a3c_cnn"])
    options = dataclasses.asdict(config.env) | {"threads": 1}
    (env, _), trained_on = pictures.make_drawn(**options), make_env(config, 1)
    try:
        assert env.obs_space == trained_on.obs_space and env.action_space == trained_on.action_space
        assert np.abs(env.reset(0).astype(int) - trained_on.reset(0)).max() <= 1  # rounding
        for action in np.random.default_rng(0).integers(env.action_space.n, size=150):
            a, b = env.step(np.array([action])), trained_on.step(np.array([action]))
            assert np.abs(a.obs.astype(int) - b.obs).max() <= 1 and a.reward == b.reward
    finally:
        env.close()
        trained_on.close()


def test_area_weights_average_what_a_new_pixel_covers():
    fine = np.random.default_rng(0).random(210)
    by_hand = fine.repeat(84).reshape(84, 210).mean(1)  # 84 copies of each of 210 pixels, in 84 equal runs
    assert np.allclose(pictures.area_weights(210, 84) @ fine, by_hand)
