"""``gala diagnose`` on a run of two gossiping learners, against its checkpoint taken apart by hand."""

import dataclasses
import json
import math

import pytest
import torch
from torch.autograd.functional import hessian
from torch.func import functional_call
from training import TINY, Gala

from gala import cli
from gala.config.schema import OptimConfig
from gala.diagnostics import gradient_noise, sharpness
from gala.diagnostics import iterative_inference as ii
from gala.diagnostics.curvature import flat
from gala.diagnostics.gradient_diversity import group_gradients
from gala.diagnostics.landscape import frozen_losses
from gala.diagnostics.noise_scale import moments, per_environment_gradients
from gala.diagnostics.registry import DIAGNOSTICS
from gala.evaluation.frozen import load_frozen, optimizer_scale
from gala.gossip.flat import flatten_parameters
from gala.models.actor_critic import build_actor_critic
from gala.rl.a2c import rollout_loss
from gala.runs.run_dir import RunDir

pytest.importorskip("matplotlib")

# The same run each time; not averaged in its last update, so that the learners are apart at its end.
LOCK_STEP = ("gossip.tau=0", "gossip.every=4", "normalize.reward=none")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("diagnose") / "run"
    words = ("algo=gala", "learners=2", "steps=1_000", "optim.schedule=constant", *LOCK_STEP)
    assert Gala(path, *TINY, *words).end()[0] == 0
    return path


def test_a_folder_that_cannot_be_is_refused_before_anything_is_played(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "notes").write_text("mine")
    monkeypatch.setattr("gala.commands.diagnose.load_frozen", None)  # whoever plays now fails otherwise
    assert cli.main(["diagnose", str(run), f"out={tmp_path / 'notes' / 'there'}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nothing can be written there (Not a directory)" in error


def test_a_run_is_judged_and_the_page_needs_no_network(run, capsys):
    assert cli.main(["diagnose", str(run), "envs=6", "batches=3", "seed=4"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if len(line) > 80 and str(run) not in line] == []
    found = json.loads((run / "diagnose" / "diagnose.json").read_text())
    page = (run / "diagnose" / "diagnose.html").read_text()
    assert "http" not in page and page.count("data:image/png;base64,") == 4
    assert {"Sharpness", "Noise of the gradient"} <= set(out.splitlines()) and str(run / "diagnose") in out
    frozen = load_frozen(RunDir.open(run), "latest", envs=6, batches=3, seed=4)
    loss = frozen_losses(frozen.policy, frozen.rollouts[0], frozen.coefficients, frozen.entropy_coef)["total"]
    params = dict(frozen.policy.named_parameters())

    def dense(vector):
        parts = vector.split([p.numel() for p in params.values()])
        named = {name: part.view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)}
        return _total(frozen, named)

    here = flat([p.detach() for p in params.values()])
    matrix = hessian(dense, here)
    assert loss().item() == pytest.approx(dense(here).item(), rel=1e-6)
    top = torch.linalg.eigvalsh(matrix).flip(0)[:5]
    torch.testing.assert_close(torch.tensor(found["curvature"]["top"]), top, rtol=2e-3, atol=1e-4)
    assert set(found["curvature"]["points"]) == {"consensus", "learner0", "learner1"}
    scaled = matrix / (frozen.scale[:, None] * frozen.scale).sqrt()
    assert found["curvature"]["preconditioned"] == pytest.approx(torch.linalg.eigvalsh(scaled)[-1].item(), rel=5e-3)
    each = [
        moments(per_environment_gradients(frozen.policy, r, _plain(frozen), frozen.entropy_coef, frozen.params))
        for r in frozen.rollouts
    ]
    assert found["noise"]["signal"] == pytest.approx(sum(m.signal for m in each) / 3, rel=1e-4)
    assert found["noise"]["noise"] == pytest.approx(sum(m.noise for m in each) / 3, rel=1e-4)
    assert found["noise"]["envs"] == 4
    _check_temperatures(run, found["noise"])
    own = [frozen.points["learner0"], frozen.points["learner1"]]
    _check_cosines(frozen, found["diversity"], "own", own)
    _check_cosines(frozen, found["diversity"], "equal", [here, here])
    assert found["diversity"]["mean_cosine_own"] != found["diversity"]["mean_cosine_equal"]


def _check_cosines(frozen, found, place, points):
    gradients = [
        group_gradients(frozen.policy, r, frozen.coefficients, frozen.entropy_coef, frozen.params, points)
        for r in frozen.rollouts
    ]
    cosine = sum(float(torch.nn.functional.cosine_similarity(g[0], g[1], dim=0)) for g in gradients) / len(gradients)
    assert found[f"mean_cosine_{place}"] == pytest.approx(cosine, rel=1e-5)
    assert found[f"cosines_{place}"][0][1] == pytest.approx(cosine, rel=1e-5)


def _check_temperatures(run, found):
    """Two learners in a ring meet in every round: in lock-step, they would never be apart."""
    run_dir, squares = RunDir.open(run), {}
    for name in run_dir.checkpoints.names():
        meta = run_dir.checkpoint_meta(name)
        a, b = (run_dir.load_part(name, f"learner{rank}")[0]["policy"] for rank in meta["ranks"])
        if meta["env_steps"] >= 500:
            squares[meta["env_steps"]] = sum(float((a[key] - b[key]).double().square().sum()) / 4 for key in a)
    assert found["deviation_measured"] == pytest.approx(sum(squares.values()) / len(squares), rel=1e-5)
    assert found["consensus_temperature"] == pytest.approx(3e-3 / 4) and found["snapshots"] == len(squares)
    assert found["deviation_closed_form"] == pytest.approx(0.0, abs=1e-12)


def _plain(frozen):
    return dataclasses.replace(frozen.coefficients, normalize_advantages=False)


def _total(frozen, named):
    """The total loss with other parameters; advantages stay."""
    r = frozen.rollouts[0]
    kept = rollout_loss(frozen.policy, r, frozen.coefficients, frozen.entropy_coef)

    class Moved:
        distribution = frozen.policy.distribution
        auxiliary_loss = staticmethod(lambda *_: None)

        @staticmethod
        def unroll(obs, state, first):
            out = functional_call(frozen.policy, named, (obs.flatten(0, 1), state, first.flatten()))
            return out._replace(params=out.params.view(*obs.shape[:2], -1), value=out.value.view(obs.shape[:2]))

    return rollout_loss(Moved, r, frozen.coefficients, frozen.entropy_coef, kept.value).loss.total


@pytest.mark.parametrize(
    ("algo", "mixing", "envs"), [("gala", "pushsum", 4), ("independent", "pushsum", 2), ("gala", "none", 2)]
)
def test_learners_that_do_not_average_count_their_own_simulators(run, algo, mixing, envs):
    frozen = load_frozen(RunDir.open(run), "latest", envs=4, batches=2, seed=4)
    gossip = dataclasses.replace(frozen.config.gossip, mixing=mixing)
    found = gradient_noise.judge(
        dataclasses.replace(frozen, config=dataclasses.replace(frozen.config, algo=algo, gossip=gossip))
    )
    assert found.numbers["envs"] == envs and f"moves by {envs}," in found.sentences[0]


def test_one_diagnostic_alone_and_bad_requests_are_one_line(run, tmp_path, capsys):
    words = ["envs=2", "batches=1", f"out={tmp_path / 'found'}"]
    assert cli.main(["diagnose", str(run), "noise=true", *words]) == 0
    assert set(json.loads((tmp_path / "found/diagnose.json").read_text())) & set(DIAGNOSTICS) == {"noise"}
    capsys.readouterr()
    for bad, message in (("envs=1", "at least 2"), ("curvatur=true", "curvature"), ("checkpoint=worst", "worst")):
        assert cli.main(["diagnose", str(run), bad]) == 2
        out, err = capsys.readouterr()
        assert out == "" and message in err and err.count("\n") == 1


def test_what_cannot_be_told_is_refused_before_the_others_are_looked_at(run, capsys, monkeypatch):
    monkeypatch.setitem(DIAGNOSTICS, "curvature", DIAGNOSTICS["curvature"]._replace(judge=None))  # cannot be called
    assert cli.main(["diagnose", str(run), "curvature=true", "iterative=true", "envs=2", "batches=1"]) == 2
    error = capsys.readouterr().err
    assert "no residual blocks" in error and error.count("\n") == 1
    frozen = load_frozen(RunDir.open(run), "latest", envs=2, batches=1, seed=0)
    DIAGNOSTICS["diversity"].check(frozen)
    with pytest.raises(ValueError, match="say envs=4 or more"):
        DIAGNOSTICS["diversity"].check(dataclasses.replace(frozen, points={}))


def test_a_policy_that_always_acts_the_same_has_a_fisher_matrix_of_zeros(run):
    """ARPACK cannot start on one."""
    frozen = load_frozen(RunDir.open(run), "latest", envs=2, batches=1, seed=4)
    with torch.no_grad():
        frozen.policy.policy_head.bias[0] = 1e6
    found = sharpness.judge(dataclasses.replace(frozen, points={}))
    assert found.numbers["points"]["consensus"]["policy Fisher"] == 0.0 and not math.isnan(found.numbers["top"][0])


def test_products_that_are_no_numbers_are_said_to_have_no_eigenvalues_and_a_matrix_of_zeros_has_zeros():
    like = torch.zeros(100)
    values, vectors = sharpness._top(lambda v: 0.0 * v, like, 3)
    assert torch.equal(values, torch.zeros(3)) and torch.equal(vectors.T @ vectors, torch.eye(3))
    with pytest.raises(ValueError, match="no eigenvalues were found"):
        sharpness._top(lambda v: math.nan * v, like, 1)
    with pytest.raises(RuntimeError, match="out of memory"):
        sharpness._top(_out_of_memory, like, 1)


def _out_of_memory(v):
    raise RuntimeError("out of memory")


def test_the_scale_of_the_optimiser_is_in_the_order_of_the_parameters():
    """Convolutions lie in memory with channels last, and so does what the optimiser keeps of them."""
    import gymnasium as gym

    from gala.config.schema import ModelConfig
    from gala.gossip.flat import flatten_gradients, flatten_parameters

    space = gym.spaces.Box(0, 1, (3, 10, 10))
    policy = build_actor_critic(space, gym.spaces.Discrete(2), ModelConfig(encoder="minatar_cnn"))
    flat_params = flatten_parameters(policy.parameters())
    flatten_gradients(flat_params, policy)
    for p in policy.parameters():
        p.grad.copy_(torch.rand_like(p))
    gradient = flat([p.grad for p in policy.parameters()])
    adam, optim = torch.optim.Adam([flat_params], 1e-3, (0.9, 0.99), 1e-5), OptimConfig(name="adam", adam_beta2=0.99)
    adam.step()
    torch.testing.assert_close(optimizer_scale(optim, 1, adam.state[flat_params], policy), gradient + 1e-5)
    unmoved = {"exp_avg_sq": torch.zeros_like(flat_params), "step": torch.tensor(0.0)}
    assert optimizer_scale(optim, 1, unmoved, policy) is None, "before the first step there is none"
    tf = optimizer_scale(OptimConfig(name="rmsprop_tf", eps=0.5), 1, {"square_avg": flat_params.detach() ** 2}, policy)
    expected = flat([p.detach() for p in policy.parameters()])
    torch.testing.assert_close(tf, (expected**2 + 0.5).sqrt())
    assert optimizer_scale(OptimConfig(name="ekfac"), 1, {"momentum_buffer": flat_params}, policy) is None


def test_the_scale_of_learners_that_gossip_is_what_their_steps_were_divided_by():
    """Read off a step: lr m / (distance moved), m corrected for its start. It was that of plain Adam, twice as much."""
    from gala.build.learning import make_optimizer
    from gala.config.parse import parse_config

    config = parse_config(["optim.name=adam", "optim.lr=0.5", "gossip.lr_scaling=noise", "algo=gala", "learners=4"])
    policy = torch.nn.Linear(40, 5)
    flat_params = flatten_parameters(policy.parameters())
    optimizer = make_optimizer(config, flat_params, policy)
    for _ in range(30):
        before = flat_params.detach().clone()
        flat_params.grad = torch.randn_like(flat_params)
        optimizer.step()
    state = optimizer.state[flat_params]
    mean = state["exp_avg"] / (1 - config.optim.adam_beta1**30)
    scale = optimizer_scale(config.optim, config.learners, state, policy)
    torch.testing.assert_close(0.5 * mean / (before - flat_params.detach()), scale, rtol=2e-3, atol=1e-4)
    plain = (state["exp_avg_sq"] / (1 - config.optim.adam_beta2**30)).sqrt()
    assert (scale / plain).median() < 0.8


@pytest.mark.long
def test_residual_blocks_are_judged_where_there_are_any(run, tmp_path, capsys):
    assert cli.main(["diagnose", str(run), "iterative=true", "envs=2", "batches=1"]) == 2
    assert "no residual blocks" in capsys.readouterr().err
    words = ["env.id=helper_envs:Catch-v0", "model.encoder=impala", "model.pooling=mean", "envs_per_learner=2"]
    assert Gala(tmp_path / "run", *words, "steps=40", "learners=1").end()[0] == 0
    assert cli.main(["diagnose", str(tmp_path / "run"), "iterative=true", "envs=2", "batches=2", "seed=3"]) == 0
    found = json.loads((tmp_path / "run/diagnose/diagnose.json").read_text())["iterative"]
    frozen = load_frozen(RunDir.open(tmp_path / "run"), "latest", envs=2, batches=2, seed=3)
    batch = ii.Batch(frozen.policy, frozen.rollouts[1], frozen.coefficients, frozen.entropy_coef)
    first = ii.Batch(frozen.policy, frozen.rollouts[0], frozen.coefficients, frozen.entropy_coef)
    expected = [
        (a.cosine["value"] + b.cosine["value"]) / 2 for a, b in zip(*map(ii.blocks, (first, batch)), strict=True)
    ]
    assert found["cosine"]["value"] == pytest.approx(expected, abs=1e-6) and len(found["blocks"]) == len(expected)
    assert all(kl >= 0 for kl in found["dropped"]["kl"])


def test_the_noise_of_a_step_is_that_of_clipped_and_scaled_means():
    """Simulators come in groups of the size of a learner; what is left over counts nowhere."""
    from types import SimpleNamespace

    from gala.config.schema import A2CConfig, Config
    from gala.diagnostics.temperatures import step_noise

    config = Config(envs_per_learner=2, a2c=A2CConfig(max_grad_norm=1.0))
    gradients = torch.tensor([[3.0, 0.0], [5.0, 0.0], [0.0, 0.2], [0.0, 0.2], [9.0, 9.0]])
    frozen = SimpleNamespace(scale=torch.tensor([2.0, 0.5]))
    steps = torch.tensor([[1.0, 0.0], [0.0, 0.2]]) / frozen.scale
    assert step_noise(frozen, config, gradients) == pytest.approx(float(steps.var(0).sum()), rel=1e-5)
    with pytest.raises(ValueError, match="4 simulators or more"):
        step_noise(frozen, config, gradients[:3])
    with pytest.raises(ValueError, match="how ekfac scales"):
        unscaled = SimpleNamespace(scale=None)
        step_noise(unscaled, Config(envs_per_learner=2, optim=OptimConfig(name="ekfac")), gradients)
