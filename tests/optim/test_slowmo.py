"""SlowMo against the algorithms that it contains, each computed by somebody else or by its own definition."""

import copy

import pytest
import torch

from gala.optim.slowmo import SlowMo

TOLERANCE = {"rtol": 0.0, "atol": 1e-12}


class _Team:
    """m learners on different quadratics, in lockstep: gradients A (x - c), with A and c of their own."""

    def __init__(self, m: int, make_optimizer, every: int, averaging: bool = True, **settings) -> None:  # type: ignore[no-untyped-def]
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(6, dtype=torch.float64, generator=generator)
        self.x = [x.clone().requires_grad_() for _ in range(m)]
        self.targets = [torch.randn(6, dtype=torch.float64, generator=generator) for _ in range(m)]
        self.curvature = [torch.rand(6, dtype=torch.float64, generator=generator) + 0.5 for _ in range(m)]
        self.optimizers = [make_optimizer([x]) for x in self.x]
        average = self._average if averaging else None
        self.slow = [SlowMo(o, every=every, average=average, **settings) for o in self.optimizers]

    def _average(self, tensors: list[torch.Tensor]) -> None:
        """Hands out the means that ``update`` took of all learners before any of them stepped: first of the parameters,
        then of the optimisers' buffers."""
        for mine, mean in zip(tensors, self._means[self._call], strict=True):
            mine.copy_(mean)
        self._call += 1

    def gradient_steps(self) -> None:
        for x, target, curvature, optimizer in zip(self.x, self.targets, self.curvature, self.optimizers, strict=True):
            x.grad = curvature * (x.detach() - target)
            optimizer.step()

    def update(self) -> None:
        self.gradient_steps()
        self._means = [[torch.stack([x.detach() for x in self.x]).mean(0)]]
        states = [o.state[x] for o, x in zip(self.optimizers, self.x, strict=True)]
        keys = [k for k in sorted(states[0]) if torch.is_tensor(states[0][k]) and states[0][k].dim() > 0]
        self._means.append([torch.stack([s[k] for s in states]).mean(0) for k in keys])
        for slow in self.slow:
            self._call = 0
            slow.step()


def _sgd(params, lr: float = 0.1, **kw):  # type: ignore[no-untyped-def]
    return torch.optim.SGD(params, lr=lr, **kw)


def test_every_1_without_momentum_is_large_batch_sgd():
    team = _Team(4, _sgd, every=1, lr=1.0, momentum=0.0)
    x = team.x[0].detach().clone()
    for _ in range(20):
        team.update()
        x -= 0.1 * sum(a * (x - c) for a, c in zip(team.curvature, team.targets, strict=True)) / 4
        for learner in team.x:
            torch.testing.assert_close(learner.detach(), x, **TOLERANCE)


def test_without_momentum_it_is_local_sgd():
    team = _Team(3, _sgd, every=5, lr=1.0, momentum=0.0)
    xs = [team.x[0].detach().clone() for _ in range(3)]
    for t in range(1, 31):
        team.update()
        xs = [x - 0.1 * a * (x - c) for x, a, c in zip(xs, team.curvature, team.targets, strict=True)]
        if t % 5 == 0:
            xs = [sum(xs) / 3 for _ in range(3)]
        for learner, x in zip(team.x, xs, strict=True):
            torch.testing.assert_close(learner.detach(), x, **TOLERANCE)


def test_with_momentum_it_is_bmuf():
    """Block momentum as BMUF writes it: Delta <- eta Delta + zeta (mean - x_0), x <- x_0 + Delta (lr = zeta)."""
    team = _Team(3, _sgd, every=4, lr=0.8, momentum=0.6)
    x0, delta = team.x[0].detach().clone(), torch.zeros(6, dtype=torch.float64)
    for _ in range(8):
        xs = [x0.clone() for _ in range(3)]
        for _ in range(4):
            team.update()
            xs = [x - 0.1 * a * (x - c) for x, a, c in zip(xs, team.curvature, team.targets, strict=True)]
        delta = 0.6 * delta + 0.8 * (sum(xs) / 3 - x0)
        x0 = x0 + delta
        torch.testing.assert_close(team.x[0].detach(), x0, **TOLERANCE)


def test_one_learner_without_momentum_is_lookahead():
    team = _Team(1, lambda p: torch.optim.Adam(p, lr=0.05), every=6, averaging=False, lr=0.5, momentum=0.0)
    plain = copy.deepcopy(team)
    anchor = plain.x[0].detach().clone()
    for t in range(1, 31):
        team.update()
        plain.gradient_steps()
        if t % 6 == 0:
            anchor = anchor + 0.5 * (plain.x[0].detach() - anchor)
            plain.x[0].data.copy_(anchor)
        torch.testing.assert_close(team.x[0].detach(), plain.x[0].detach(), **TOLERANCE)


def test_nesterov_is_the_outer_optimiser_of_diloco():
    """PyTorch's own SGD with Nesterov momentum on the pseudo-gradient x_0 - mean(x_tau)."""
    team = _Team(3, _sgd, every=4, lr=0.7, momentum=0.9, nesterov=True)
    outer = team.x[0].detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([outer], lr=0.7, momentum=0.9, nesterov=True)
    for _ in range(8):
        xs = [outer.detach().clone() for _ in range(3)]
        for _ in range(4):
            team.update()
            xs = [x - 0.1 * a * (x - c) for x, a, c in zip(xs, team.curvature, team.targets, strict=True)]
        outer.grad = outer.detach() - sum(xs) / 3
        optimizer.step()
        torch.testing.assert_close(team.x[0].detach(), outer.detach(), **TOLERANCE)


def test_a_changing_learning_rate_does_not_rescale_the_slow_momentum():
    """The definition with gamma_t, over a schedule that ends at 0."""
    team = _Team(2, _sgd, every=2, lr=1.0, momentum=0.5)
    x0, u = team.x[0].detach().clone(), torch.zeros(6, dtype=torch.float64)
    for gamma in (0.1, 0.02, 0.3, 0.0, 0.1):
        for optimizer in team.optimizers:
            optimizer.param_groups[0]["lr"] = gamma
        xs = [x0.clone() for _ in range(2)]
        for _ in range(2):
            team.update()
            xs = [x - gamma * a * (x - c) for x, a, c in zip(xs, team.curvature, team.targets, strict=True)]
        u = 0.5 * u + ((x0 - sum(xs) / 2) / gamma if gamma else 0.0)
        x0 = x0 - gamma * u
        torch.testing.assert_close(team.x[0].detach(), x0, **TOLERANCE)


def test_no_average_is_local_and_keeps_learners_apart():
    apart = _Team(2, _sgd, every=3, averaging=False, momentum=0.6)
    lone = _Team(2, _sgd, every=3, averaging=False, momentum=0.6)
    for _ in range(9):
        apart.update()
        lone.x[1].grad = lone.curvature[1] * (lone.x[1].detach() - lone.targets[1])
        lone.optimizers[1].step()
        lone.slow[1].step()
    assert torch.equal(apart.x[1], lone.x[1]) and not torch.allclose(apart.x[0], apart.x[1])


@pytest.mark.parametrize("buffers", ["reset", "maintain", "average"])
def test_buffer_strategies(buffers):
    team = _Team(3, lambda p: _sgd(p, momentum=0.9), every=4, momentum=0.5, buffers=buffers)
    for _ in range(3):
        team.update()
    team.gradient_steps()
    before = [o.state[x]["momentum_buffer"].clone() for o, x in zip(team.optimizers, team.x, strict=True)]
    for x in team.x:
        x.data.copy_(team.x[0].detach())
    team._means = [[team.x[0].detach().clone()], [torch.stack(before).mean(0)]]
    for slow in team.slow:
        team._call = 0
        assert slow.step()
    after = [o.state[x].get("momentum_buffer") for o, x in zip(team.optimizers, team.x, strict=True)]
    if buffers == "reset":
        assert after == [None] * 3
    elif buffers == "maintain":
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    else:
        assert all(torch.equal(a, torch.stack(before).mean(0)) for a in after)
    team.update()


def test_state_resumes_bit_for_bit():
    team = _Team(1, _sgd, every=3, averaging=False, momentum=0.6)
    for _ in range(7):
        team.update()
    resumed = _Team(1, _sgd, every=3, averaging=False, momentum=0.6)
    resumed.x[0].data.copy_(team.x[0].detach())
    resumed.slow[0].load_state_dict(copy.deepcopy(team.slow[0].state_dict()))
    for _ in range(8):
        team.update()
        resumed.update()
    assert torch.equal(team.x[0], resumed.x[0])
    other = SlowMo(_sgd([torch.ones(2, requires_grad=True)]), every=1)
    with pytest.raises(ValueError, match="other parameters"):
        other.load_state_dict(team.slow[0].state_dict())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"every": 0}, "every"),
        ({"momentum": 1.0}, "momentum"),
        ({"lr": 0.0}, "slow lr"),
        ({"buffers": "burn"}, "buffers"),
        ({"buffers": "average"}, "needs an average"),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        SlowMo(_sgd([torch.ones(2, requires_grad=True)]), **({"every": 4} | settings))


def test_named_tensors_for_a_checkpoint_are_the_state():
    team = _Team(1, _sgd, every=3, averaging=False, momentum=0.6)
    for _ in range(7):
        team.update()
    fresh = _Team(1, _sgd, every=3, averaging=False, momentum=0.6).slow[0]
    fresh.load_tensors(team.slow[0].tensors())
    a, b = fresh.state_dict(), team.slow[0].state_dict()
    assert a["updates"] == b["updates"] == 7
    assert all(torch.equal(x, y) for name in ("slow", "u") for x, y in zip(a[name], b[name], strict=True))
    assert any(float(x.abs().sum()) > 0 for x in a["u"])


def test_the_defaults_are_the_papers_and_the_bounds_belong_to_them():
    optimizer = _sgd([torch.ones(2, requires_grad=True)])
    slow = SlowMo(optimizer, every=1)
    assert (slow.lr, slow.momentum, slow.average, slow.buffers, slow.nesterov) == (1.0, 0.6, None, "maintain", False)
    SlowMo(optimizer, every=1, momentum=0.0, lr=1e-9)
    for bad in ({"momentum": -0.1}, {"lr": -1.0}, {"every": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}"):
            SlowMo(optimizer, **({"every": 1} | bad))


def test_averaged_buffers_are_the_tensors_of_a_state_and_not_its_counts():
    """Adam counts its steps in a tensor without dimensions: that is no buffer."""
    params, seen = [torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)], []
    optimizer = torch.optim.Adam(params)
    slow = SlowMo(optimizer, every=1, average=lambda xs: seen.append([x.clone() for x in xs]), buffers="average")
    for p in params:
        p.grad = torch.full_like(p, 2.0)
        optimizer.state[p] = {}
    optimizer.state.clear()
    optimizer.step()
    optimizer.state[params[0]]["note"] = "no tensor"
    assert slow.step() is True
    states = [optimizer.state[p] for p in params]
    wanted = [s[k] for s in states for k in ("exp_avg", "exp_avg_sq")]
    assert [len(xs) for xs in seen] == [2, 4] and all(map(torch.equal, seen[1], wanted))


def test_groups_have_learning_rates_of_their_own():
    a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.5}, {"params": [b], "lr": 0.125}])
    slow = SlowMo(optimizer, every=2, momentum=0.5)
    results = []
    for _ in range(4):
        a.grad, b.grad = torch.ones(1), torch.ones(1)
        optimizer.step()
        results.append(slow.step())
    # u = 2, then 1 + 2: x = -lr (2 + 3) for each
    assert results == [False, True, False, True] and (a.item(), b.item()) == (-2.5, -0.625)


def test_begun_anew_it_is_one_that_is_built_at_that_moment():
    mine, other = (torch.ones(2, dtype=torch.float64).requires_grad_() for _ in range(2))
    optimizers = [_sgd([mine]), _sgd([other])]
    slow, built = SlowMo(optimizers[0], every=3, momentum=0.5), None
    for t in range(14):
        if t == 7:  # after two slow steps, and in the middle of a block
            for p in (mine, other):
                p.data.fill_(-5.0)
            slow.restart()
            built = SlowMo(optimizers[1], every=3, momentum=0.5)
            built.updates = 7
        for p, optimizer in zip((mine, other), optimizers, strict=True):
            p.grad = p.detach() - 3.0
            optimizer.step()
        slow.step()
        if built is not None:
            built.step()
            assert torch.equal(mine, other)


def _added(optimizer: torch.optim.Optimizer, p: torch.Tensor, **settings) -> torch.Tensor:  # type: ignore[no-untyped-def]
    optimizer.add_param_group({"params": [p], **settings})
    return p


def test_a_parameter_that_is_added_later_has_the_slow_steps_of_one_that_starts_then():
    """Added between two slow steps: as alone in a SlowMo that counts along; the old one goes on as if alone."""
    ones = torch.ones(2, dtype=torch.float64)
    old, new, alone, late = (ones.clone().requires_grad_() for _ in range(4))
    both, lone, second = _sgd([old]), _sgd([alone]), _sgd([late], lr=0.3)
    slow, slow_lone = SlowMo(both, every=3, momentum=0.5), SlowMo(lone, every=3, momentum=0.5)
    slow_second = None
    for t in range(12):
        if t == 4:
            _added(both, new, lr=0.3)
            slow_second = SlowMo(second, every=3, momentum=0.5)
            slow_second.updates = 4
            slow.state_dict()  # a checkpoint at this moment knows both
        for p in (old, new, alone, late):
            p.grad = p.detach() - 3.0
        for optimizer in (both, lone, *([second] if slow_second else [])):
            optimizer.step()
        for each in (slow, slow_lone, *([slow_second] if slow_second else [])):
            each.step()
    assert torch.equal(old, alone) and torch.equal(new, late) and not torch.equal(old, new)


def test_a_parameter_that_is_added_and_not_yet_seen_starts_after_its_first_update_and_is_saved():
    p, q = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = _sgd([p], lr=1.0)
    slow, resumed = (SlowMo(optimizer, every=2, momentum=0.0, lr=0.5) for _ in range(2))
    _added(optimizer, q)
    for _ in range(2):
        p.grad, q.grad = -torch.ones(1), -torch.ones(1)
        optimizer.step()
        slow.step()
    assert p.item() == 1.0, "half of two steps"
    assert q.item() == 1.5, "the first, and half of the second"
    state = slow.state_dict()
    assert [x.item() for x in state["slow"]] == [1.0, 1.5]
    resumed.load_state_dict(state)
    assert [x.item() for x in resumed.state_dict()["slow"]] == [1.0, 1.5] and resumed.updates == 2
    with pytest.raises(ValueError, match="other parameters"):
        SlowMo(_sgd([p]), every=2).load_state_dict(state)


@pytest.mark.parametrize("change", ["removed", "replaced", "reordered"])
def test_other_changes_of_the_optimisers_parameters_are_refused_before_any_of_them_moves(change):
    params = [torch.ones(1, requires_grad=True) for _ in range(3)]
    optimizer = _sgd(params)
    slow = SlowMo(optimizer, every=1)
    listed = optimizer.param_groups[0]["params"]
    if change == "removed":
        listed.pop()
    elif change == "replaced":
        listed[2] = torch.ones(1, requires_grad=True)
    else:
        listed[1], listed[2] = listed[2], listed[1]
    for p in params:
        p.data.add_(1.0)
    with pytest.raises(ValueError, match="removed, replaced or reordered"):
        slow.step()
    assert all(p.item() == 2.0 for p in params) and slow.updates == 0
