import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gala_envs.parts import with_mask
from gala_envs.spaces import (
    action_adapter,
    describe_space,
    each_row,
    observation_adapter,
    space_of,
    stack_observations,
)
from safetensors import safe_open
from safetensors.torch import save_file
from test_evaluate import make_run

import gala
from gala.build.envs import probe_spaces
from gala.config.schema import ModelConfig
from gala.evaluation import weights
from gala.evaluation.load import load_policy
from gala.models.actor_critic import build_actor_critic

VECTOR = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = gym.spaces.Box(0, 255, (2, 10, 10), np.uint8)
ACTIONS = [gym.spaces.Discrete(4), gym.spaces.MultiDiscrete([2, 5]), gym.spaces.Box(-0.1, 0.2, (2,), np.float32)]


def agent_for(obs_space, action_space, **model):
    """A network of random parameters, large enough that actions differ."""
    settings = ModelConfig(hidden=(8,), **model)
    policy = build_actor_critic(obs_space, action_space, settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in policy.parameters():
            p.normal_(generator=generator)
    return gala.Agent(policy, None, weights.Description(settings, obs_space, action_space, "somewhere")), policy


def observations(n, space=VECTOR):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (n, *space.shape), np.uint8) if space is IMAGE else rng.normal(size=(n, 3)).astype("f4")


def test_an_agent_acts_as_the_averaged_policy_behind_the_pooled_normaliser(tmp_path):
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1", "algo=gala", "normalize.obs=true", weights=(0.5, 1.5))
    obs = np.random.default_rng(0).normal(0, 3, (50, 4))
    for learner in ("consensus", 0, 1):
        policy, normalizer = load_policy(run, run.config, probe_spaces(run.config), "latest", learner)
        inputs = torch.from_numpy(normalizer(obs.astype(np.float32)))
        logits = policy(inputs, torch.zeros(50, 0), torch.ones(50, dtype=torch.bool)).params
        action = gala.Run(run.path).load(learner=learner).act(obs)
        assert action.dtype == np.int64 and set(action) == {0, 1}
        np.testing.assert_array_equal(action, logits.argmax(-1).numpy())
        plain = policy(torch.from_numpy(obs.astype("f4")), torch.zeros(50, 0), torch.ones(50, dtype=torch.bool)).params
        assert (action != plain.argmax(-1).numpy()).any()  # the normaliser matters here


@pytest.mark.parametrize("action_space", ACTIONS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("obs_space", [VECTOR, IMAGE], ids=["vector", "image"])
def test_one_observation_is_a_batch_of_one_and_actions_belong_to_their_space(obs_space, action_space):
    encoder = "mlp" if obs_space is VECTOR else "minatar_cnn"
    agent, _ = agent_for(obs_space, action_space, encoder=encoder)
    obs = observations(30, obs_space)
    actions = agent.act(obs)
    for row, action in zip(obs, actions, strict=True):
        one = agent.act(row)
        np.testing.assert_allclose(one, action, rtol=1e-5, atol=1e-6)  # rounded differently
        assert action_space.contains(one), one
    if isinstance(action_space, gym.spaces.Box):
        assert set(np.unique(actions)) >= {np.float32(-0.1), np.float32(0.2)}  # clipped on both sides
    assert agent.act(obs.astype(np.float64) if obs_space is VECTOR else obs).dtype == actions.dtype


def test_sampled_actions_have_the_policys_probabilities_and_repeat_with_the_seed():
    agent, policy = agent_for(VECTOR, gym.spaces.Discrete(4))
    obs = np.tile(observations(1) / 4, (20_000, 1))
    agent.seed(3)
    actions = agent.act(obs, greedy=False)
    logits = policy(torch.from_numpy(obs[:1]), torch.zeros(1, 0), torch.ones(1, dtype=torch.bool)).params
    p = torch.softmax(logits, -1)[0].detach().numpy()
    counts = np.bincount(actions, minlength=4) / len(actions)
    np.testing.assert_allclose(counts, p, atol=5 * 0.5 / len(actions) ** 0.5)
    assert (p > 0.01).sum() > 1
    agent.seed(3)
    np.testing.assert_array_equal(agent.act(obs, greedy=False), actions)


def test_a_recurrent_agent_carries_its_state_and_resets_the_rows_that_open_an_episode():
    agent, policy = agent_for(VECTOR, gym.spaces.Discrete(4), gru_size=6, separate_critic=False)
    assert agent.recurrent
    obs = observations(20).reshape(5, 4, 3)
    first = np.zeros((5, 4), bool)
    first[0] = first[2, 1] = first[3, 3] = True
    expected = policy.unroll(torch.from_numpy(obs), torch.zeros(4, 6), torch.from_numpy(first))
    state, actions = None, []
    for t in range(5):
        action, state = agent.act(obs[t], state, first[t])
        actions.append(action)
    np.testing.assert_array_equal(np.stack(actions), expected.params.argmax(-1).numpy())
    np.testing.assert_allclose(state, expected.state.detach().numpy(), atol=1e-6)
    one, alone = None, []
    for t in range(5):  # the same for one row by itself
        action, one = agent.act(obs[t, 1], one, first[t, 1])
        alone.append(action)
    assert one.shape == (6,) and alone == [a[1] for a in actions]
    with pytest.raises(ValueError, match=r"state has shape \(4, 5\), not \(4, 6\)"):
        agent.act(obs[0], np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"first is int64 of shape \(4,\); wants bool"):
        agent.act(obs[0], state, np.zeros(4, int))


@pytest.mark.parametrize(
    ("space", "obs", "message"),
    [
        (VECTOR, np.zeros(4), "obs has shape (4,); this agent wants (3,), or a batch (B, 3)"),
        (VECTOR, np.zeros((2, 2, 3)), "obs has shape (2, 2, 3)"),
        (VECTOR, np.zeros((0, 3)), "obs is an empty batch"),
        (VECTOR, np.array(["a", "b", "c"]), "obs is <U1; this agent wants float32"),
        (VECTOR, np.zeros(3, complex), "obs is complex128; this agent wants float32"),
        (VECTOR, np.array([[0, 0, 0], [0, np.nan, 0]]), "row 1 of obs is not finite"),
        (VECTOR, [[0, 0, 0], [0, 1e300, 0]], "row 1 of obs is beyond the largest float32"),
        (IMAGE, np.zeros((2, 10, 10)), "obs is float64; this agent wants uint8"),
        (IMAGE, np.zeros((10, 10, 2), np.uint8), "obs has shape (10, 10, 2); this agent wants (2, 10, 10)"),
    ],
)
def test_observations_that_do_not_fit_are_refused_in_one_line(space, obs, message):
    agent, _ = agent_for(space, ACTIONS[0], encoder="mlp" if space is VECTOR else "minatar_cnn")
    with pytest.raises(ValueError) as caught:
        agent.act(obs)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_agent_without_memory_takes_no_state():
    agent, _ = agent_for(VECTOR, ACTIONS[0])
    with pytest.raises(ValueError, match="this agent keeps no state, leave it out"):
        agent.act(np.zeros(3), np.zeros(4))


@pytest.mark.parametrize("action_space", ACTIONS, ids=lambda s: type(s).__name__)
def test_a_saved_agent_is_the_same_agent(tmp_path, action_space):
    agent, policy = agent_for(VECTOR, action_space, gru_size=4, separate_critic=False, dropout=0.3)
    agent._normalizer = _normalizer()
    path = tmp_path / "agent.safetensors"
    agent.save(path)
    again = gala.load(path)
    assert (again.obs_space, again.action_space, again.model) == (agent.obs_space, agent.action_space, agent.model)
    assert repr(again) == repr(agent) and "somewhere" in repr(again)
    for a, b in zip(policy.state_dict().values(), again._policy.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    obs = observations(9) * 5
    for ours, theirs in zip(agent.act(obs), again.act(obs), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["gala"])["format"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file is left


def _normalizer():
    from gala.rl.normalise import ObsNormalizer

    normalizer = ObsNormalizer((3,), 1.5)
    normalizer.update(np.random.default_rng(5).normal(2, 3, (40, 3)))
    return normalizer


def test_a_saved_agent_with_an_encoder_of_ones_own_finds_it_again(tmp_path):
    agent, _ = agent_for(VECTOR, ACTIONS[0], encoder="own_parts:TinyNet")
    agent.save(tmp_path / "a")
    np.testing.assert_array_equal(
        gala.load(tmp_path / "a", trust=True).act(observations(5)), agent.act(observations(5))
    )


def test_files_are_not_overwritten_and_what_is_no_agent_is_named(tmp_path):
    agent, _ = agent_for(VECTOR, ACTIONS[0])
    path = tmp_path / "agent"
    agent.save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="already exists; choose another name, or say overwrite=True"):
        agent.save(path)
    assert path.read_bytes() == before
    agent_for(VECTOR, ACTIONS[1])[0].save(path, overwrite=True)
    assert gala.load(path).action_space == ACTIONS[1]
    with pytest.raises(ValueError, match="must be a file in a directory that exists"):
        agent.save(tmp_path / "no" / "agent")
    (tmp_path / "torn").write_bytes(before[: len(before) // 2])
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
    save_file({"x": torch.zeros(1)}, tmp_path / "newer", {"gala": json.dumps({"format": 99})})
    for name, message in [
        ("torn", "is damaged, or no safetensors file"),
        ("foreign", "was not written by gala.Agent.save"),
        ("newer", "has format 99; this version of gala reads 1"),
        ("nothing", "there is no file"),
        (".", "is a directory; of a run, gala.Run"),
    ]:
        with pytest.raises(ValueError, match=message):
            gala.load(tmp_path / name)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    del tensors["policy.value_head.bias"]
    save_file(tensors, tmp_path / "short", metadata)
    with pytest.raises(ValueError, match=r"short is damaged, .*value_head.bias"):
        gala.load(tmp_path / "short")
    wide = json.loads(metadata["gala"])
    wide["model"]["hidden"] = [10**6, 10**6]  # would take 4 TB
    save_file(tensors, tmp_path / "wide", {"gala": json.dumps(wide)})
    with pytest.raises(ValueError, match=r"wide is damaged, .* its model has 2,000,018,000,008 numbers, and 135"):
        gala.load(tmp_path / "wide")


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "meta", "mps:9", None])
def test_a_device_that_is_not_there_is_refused(tmp_path, device):
    agent, _ = agent_for(VECTOR, ACTIONS[0])
    agent.save(tmp_path / "a")
    with pytest.raises(ValueError, match=f"^device={device}"):
        gala.load(tmp_path / "a", device=device)


@pytest.mark.parametrize(
    "space",
    [
        *(*ACTIONS, VECTOR, IMAGE, gym.spaces.Discrete(3, start=-1)),
        gym.spaces.Box(np.array([-1, -np.inf], "f4"), np.array([np.inf, 0.1], "f4")),
        gym.spaces.Box(-1, 1, (2,), np.float64),
    ],
    ids=str,
)
def test_a_space_survives_json(space):
    again = space_of(json.loads(json.dumps(describe_space(space), allow_nan=False)))
    assert again == space and again.dtype == space.dtype


PARTED = gym.spaces.Dict(a=gym.spaces.Discrete(3, start=1), b=gym.spaces.Tuple([gym.spaces.Box(-1, 1, (2,))]))
PAIRED = gym.spaces.Tuple([gym.spaces.Discrete(4, start=-1), gym.spaces.MultiBinary(2)])


@pytest.mark.parametrize(
    ("obs_space", "action_space"),
    [
        (PARTED, PAIRED),
        (gym.spaces.Discrete(5), gym.spaces.Box(-1, 2, (2, 3))),
        (gym.spaces.Box(0, 255, (10, 10, 2), np.uint8), gym.spaces.Discrete(3, start=2)),
        (VECTOR, ACTIONS[2]),
    ],
    ids=str,
)
def test_an_agent_acts_in_the_spaces_of_an_environment(obs_space, action_space):
    """Its actions are the environment's, and those that the flattened observation leads to."""
    seen, convert = observation_adapter(obs_space, "somewhere")
    shown, to_env = action_adapter(action_space, "somewhere")
    agent, _ = agent_for(seen, shown)
    env = gym.Env()
    env.observation_space, env.action_space = obs_space, action_space
    act = agent.acting_in(env)
    obs_space.seed(0)
    for _ in range(5):
        obs = obs_space.sample()
        action = act(obs)
        assert action_space.contains(action), action
        (wanted,) = each_row(action_space, to_env(agent.act(convert(stack_observations(obs_space, [obs])))))
        assert str(action) == str(wanted)
    env.action_space = gym.spaces.Discrete(7)
    with pytest.raises(ValueError, match="this agent wants"):
        agent.acting_in(env)


def test_the_error_of_a_shape_names_the_way_out():
    agent, _ = agent_for(VECTOR, ACTIONS[0])
    with pytest.raises(ValueError, match=r"agent.acting_in\(env\) takes what an environment returns$"):
        agent.act(4)


def test_a_mask_decides_what_an_agent_may_do():
    plain, _ = agent_for(VECTOR, ACTIONS[0])
    masked, _ = agent_for(with_mask(VECTOR, 4), ACTIONS[0])
    assert masked.obs_space == VECTOR
    obs, mask = observations(1)[0], np.array([0, 1, 0, 0])
    for agent in (plain, masked):
        assert {int(agent.act(obs, greedy=greedy, action_mask=mask)) for greedy in (True, False)} == {1}
        both = agent.act(np.stack([obs, obs]), action_mask=np.stack([mask, 1 - mask]) > 0)
        assert both[0] == 1 and both[1] != 1
        with pytest.raises(ValueError, match="action_mask allows nothing in row 0; allow an action"):
            agent.act(obs, action_mask=mask > 1)
        with pytest.raises(ValueError, match=r"action_mask is int64 of shape \(1,\); wants 0 or 1 of shape \(4,\)"):
            agent.act(obs, action_mask=np.array([1]))
    plain.act(obs)
    with pytest.raises(ValueError, match="was trained with masks of actions: give action_mask"):
        masked.act(obs)
    several, _ = agent_for(with_mask(VECTOR, 7), ACTIONS[1])
    assert several.act(obs, action_mask=[0, 1, 0, 0, 1, 0, 0]).tolist() == [1, 2]
    continuous, _ = agent_for(VECTOR, ACTIONS[2])
    with pytest.raises(ValueError, match="masks are for discrete actions"):
        continuous.act(obs, action_mask=[True, False])
