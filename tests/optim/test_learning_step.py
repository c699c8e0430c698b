"""The learning step on several tensors, against the norm of all of them in one vector."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.optim import optimizer as optimizers

from gala.gossip.averager import GossipAverager
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.optim.rmsprop_tf import RMSpropTF
from gala.optim.slowmo import SlowMo
from gala.optim.update import LearningStep, clip_factor


def _params(dtype=torch.float64):
    make = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=make, dtype=dtype).requires_grad_() for shape in ((3, 2), (4,), (2,))]
    for p in params[:2]:  # the third has no gradient
        p.grad = torch.randn(p.shape, generator=make, dtype=dtype)
    return params


@pytest.mark.parametrize("share", [0.25, 0.999, 1.5, 0.0])
def test_the_common_norm_is_limited_and_the_direction_kept(share):
    params = _params()
    before, gradients = [p.detach().clone() for p in params], [p.grad.clone() for p in params[:2]]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    optimizer = torch.optim.SGD([{"params": params[:1]}, {"params": params[1:]}], lr=9.0)
    step = LearningStep(optimizer, max_grad_norm=share * norm.item())
    assert step.clip_factor == 1.0 and step(0.5).item() == pytest.approx(norm.item(), rel=1e-12)
    scale = min(1.0, share) if share else 1.0
    assert step.clip_factor == pytest.approx(scale, rel=1e-5)
    for p, x, g in zip(params, before, [*gradients, torch.zeros(2)], strict=True):
        torch.testing.assert_close(p.detach(), x - 0.5 * scale * g, rtol=1e-5, atol=1e-12)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_without_a_learning_rate_the_optimisers_own_holds_for_all_that_need_it():
    params, told, seen = _params(), [], []
    before = params[0].detach().clone()
    step = LearningStep(
        torch.optim.SGD(params, lr=0.125),
        reduce_gradients=lambda grads: seen.extend(g.shape for g in grads),
        precondition=told.append,
    )
    step()
    assert told == [0.125] and seen == [(3, 2), (4,)]
    torch.testing.assert_close(params[0].detach(), before - 0.125 * params[0].grad)


def test_no_parameter_moves_and_nothing_is_exchanged_if_a_gradient_is_not_finite():
    class Exchange:
        def step(self):
            raise AssertionError("exchanged")

    for bad in (float("nan"), float("inf")):
        params = _params()
        params[1].grad[2] = bad
        before = [p.detach().clone() for p in params]
        with pytest.raises(FloatingPointError, match="not finite"):
            LearningStep(torch.optim.SGD(params), max_grad_norm=0.5, averager=Exchange())(0.1)
        assert all(torch.equal(p.detach(), x) for p, x in zip(params, before, strict=True))


def test_a_norm_of_nearly_0_is_limited_with_a_millionth_beside_it():
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    p.grad = torch.full((1,), 1e-6, dtype=torch.float64)
    LearningStep(torch.optim.SGD([p]), max_grad_norm=1e-6)(1.0)
    assert p.item() == pytest.approx(-0.5e-6, rel=1e-9)


def test_the_factor_of_a_clipped_gradient():
    assert clip_factor(3.0, 0.0) == 1.0 and clip_factor(0.5, 1.0) == 1.0
    assert clip_factor(4.0, 1.0) == 1.0 / (4.0 + 1e-6) and clip_factor(0.0, 1.0) == 1.0


OPTIMIZERS = {"sgd": torch.optim.SGD, "ours": RMSpropTF}


def _stepped(name):
    """(optimiser, its parameter, where one step of 0.5 should bring it)."""
    start = torch.tensor([4.0, -2.0])
    p, q = (start.clone().requires_grad_() for _ in range(2))
    p.grad = q.grad = torch.tensor([1.0, 3.0])
    OPTIMIZERS[name]([q], lr=0.5).step()
    assert not torch.equal(q, p)
    return OPTIMIZERS[name]([p], lr=9.0), p, q


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_hooks_of_an_optimiser_are_called_around_its_step(name):
    optimizer, p, wanted = _stepped(name)
    start, seen = p.detach().clone(), []
    for register, word in (
        (optimizer.register_step_pre_hook, "before"),
        (optimizer.register_step_post_hook, "after"),
        (optimizers.register_optimizer_step_pre_hook, "before"),
        (optimizers.register_optimizer_step_post_hook, "after"),
    ):
        handle = register(lambda *_, word=word: seen.append((word, p.detach().clone())))
        LearningStep(optimizer)(0.5)
        handle.remove()
        with torch.no_grad():
            assert torch.equal(p, wanted)
            p.copy_(start)
        optimizer.state.clear()
    assert [word for word, _ in seen] == ["before", "after"] * 2
    assert all(torch.equal(at, start if word == "before" else wanted) for word, at in seen)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_was_replaced_on_the_optimiser_itself_is_the_one_that_is_taken(name):
    """As PyTorch's schedulers do, to count steps."""
    optimizer, p, wanted = _stepped(name)
    taken, inner = [], optimizer.step
    optimizer.step = lambda: taken.append(1) or inner()
    LearningStep(optimizer)(0.5)
    assert taken == [1] and torch.equal(p, wanted)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_plain_step_is_not_recorded_for_the_profiler_and_is_the_same(name, monkeypatch):
    optimizer, p, wanted = _stepped(name)
    monkeypatch.setattr(torch.autograd.profiler, "record_function", None)
    LearningStep(optimizer)(0.5)
    assert torch.equal(p, wanted)
    with pytest.raises(TypeError):
        optimizer.step()


def test_an_optimiser_that_is_none_of_pytorchs_is_asked_for_its_step():
    p = torch.tensor([4.0], requires_grad=True)
    p.grad = torch.tensor([2.0])

    class Own:
        param_groups = ({"params": [p], "lr": 0.0},)

        def step(self):
            with torch.no_grad():
                p.sub_(self.param_groups[0]["lr"] * p.grad)

    LearningStep(Own())(0.5)
    assert p.item() == 3.0


WITHOUT_COMPILER = """
import sys
import torch
from gala.optim.eager import spare_compiler
from gala.optim.update import LearningStep

spare_compiler()
for make in (torch.optim.Adam, torch.optim.RMSprop, torch.optim.SGD):
    p = torch.tensor([4.0, -2.0], requires_grad=True)
    p.grad = torch.tensor([1.0, 3.0])
    optimizer = make([p], lr=0.5)
    for _ in range(2):
        LearningStep(optimizer)(0.5)
    again = make([p], lr=0.1)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["lr"] == 0.5
    LearningStep(again)(0.5)
    print(p.tolist(), "torch._dynamo" in sys.modules)
optimizer.step()
print("torch._dynamo" in sys.modules)
"""


def test_optimisers_do_not_import_the_compiler_and_step_the_same():
    done = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=True)
    *told, last = done.stdout.splitlines()
    for line, make in zip(told, (torch.optim.Adam, torch.optim.RMSprop, torch.optim.SGD), strict=True):
        p = torch.tensor([4.0, -2.0], requires_grad=True)
        p.grad = torch.tensor([1.0, 3.0])
        optimizer = make([p], lr=0.5)
        for _ in range(3):
            optimizer.step()
        assert line == f"{p.tolist()} False"
    assert last == "True", "another PyTorch: its plain step imports no compiler, and gala.optim.eager is not needed"


@pytest.mark.parametrize("absorbs", ["in a step", "at a checkpoint", "at a checkpoint that is resumed"])
def test_a_learner_that_joins_stays_where_it_finds_the_others(absorbs):
    """No gradient moves anybody, so nothing may move once all are at one place: the way there is no momentum."""
    boxes, steps = InProcessMailboxes(2, 1), []
    for rank, at in enumerate((0.0, 8.0)):
        p = torch.tensor([at], dtype=torch.float64, requires_grad=True)
        averager = GossipAverager([p], rank=rank, world_size=2, mailbox=boxes.endpoint(rank))
        optimizer = torch.optim.SGD([p], lr=0.1)
        p.grad = torch.zeros_like(p)
        steps.append(LearningStep(optimizer, averager=averager, slowmo=SlowMo(optimizer, every=3, momentum=0.6)))
    old, new = steps
    new.averager.join()
    new()
    assert new.averager.flat.item() == 8.0 and new.averager.weight == 0.0
    old()
    if absorbs != "in a step":
        new.averager.drain()
    if absorbs == "at a checkpoint that is resumed":
        new.notice_first_mass()
        saved = new.slowmo.state_dict()
        new = LearningStep(new.optimizer, averager=new.averager, slowmo=SlowMo(new.optimizer, every=3, momentum=0.6))
        new.slowmo.load_state_dict(saved)
    for _ in range(20):
        new()
        assert new.averager.flat.item() == 0.0 and new.averager.weight > 0.0
        old()
        assert old.averager.flat.item() == 0.0


def test_the_slow_step_begins_anew_once_and_only_where_there_was_no_weight():
    """Of two shards, each may get its first mass in a step of its own."""
    told, weights = [], iter([(0.0, 0.0), (0.0, 0.5), (0.0, 0.5), (0.1, 0.5), (0.2, 0.25)])
    p = torch.zeros(1, requires_grad=True)
    p.grad = torch.zeros(1)

    def mix():
        slices[:] = [(1, weight) for weight in next(weights)]

    slices = [(1, 0.0), (1, 0.0)]
    averager = SimpleNamespace(slice_weights=lambda: slices, step=mix)
    slowmo = SimpleNamespace(step=lambda: told.append("step"), restart=lambda: told.append("restart"))
    step = LearningStep(torch.optim.SGD([p], lr=1.0), averager=averager, slowmo=slowmo)
    for _ in range(5):
        step()
    assert told == ["step", "restart", "step", "step", "restart", "step", "step"]
