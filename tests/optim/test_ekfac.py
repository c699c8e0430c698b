"""EKFAC, K-FAC and the diagonal, in float64, against Fisher matrices built from per-example gradients."""

import copy
import math
import textwrap

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from gala.optim.ekfac import EKFAC
from gala.optim.ekfac_layers import input_rows

KINDS = ("ekfac", "kfac", "diagonal")


def mlp(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double(), torch.randn(64, 6, dtype=torch.float64)


def observed(model, x, losses, **settings):
    ekfac = EKFAC(model, **{"decay": 0.0, "damping": 0.0} | settings)
    with ekfac.recording():
        out = model(x)
    ekfac.observe(losses(out))
    return ekfac


def exactly(logits):
    """The expectation over labels, as one loss a label."""
    log_p = torch.log_softmax(logits, -1)
    return [-log_p[:, k] * log_p[:, k].detach().mul(0.5).exp() for k in range(logits.shape[1])]


def per_example(model, x, loss, block):
    """Gradients ``[N, outputs * inputs]`` of the weights and bias of ``block``, by torch.func."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    grads = vmap(grad(lambda p, one: loss(functional_call(model, p, (one.unsqueeze(0),))[0])), (None, 0))(params, x)
    weight = grads[f"{block}.weight"].flatten(2)
    bias = grads.get(f"{block}.bias")
    return (weight if bias is None else torch.cat([weight, bias.unsqueeze(2)], 2)).flatten(1)


def exact_fisher(model, x, block):
    """sum_k p_k g_k g_k^T, mean over examples."""
    p = torch.softmax(model(x), -1).detach()
    fisher = 0.0
    for k in range(p.shape[1]):
        g = per_example(model, x, lambda logits, k=k: -torch.log_softmax(logits, -1)[k], block)
        fisher = fisher + (p[:, k, None] * g).T @ g / len(x)
    return fisher


def dense(block):
    """The matrix that a block stands for, over the row-major weights."""
    q = torch.eye(block.moments.numel(), dtype=block.moments.dtype)
    if block.kind != "diagonal":
        q = torch.kron(block.factors["basis_g"], block.factors["basis_a"])
    return q @ block.moments.flatten().diag() @ q.T, q


def test_ekfac_is_at_least_as_close_to_the_fisher_as_kfac_and_keeps_its_trace():
    """Theorem 3 of arXiv 1806.03884, on 20 networks; the diagonal of Q^T F Q is s (Lemma 1)."""
    farther = 0
    for seed in range(20):
        model, x = mlp(seed)
        found = {kind: observed(model, x, exactly, kind=kind) for kind in KINDS}
        for name in ("0", "2"):
            fisher = exact_fisher(model, x, name)
            error = {}
            for kind in KINDS:
                matrix, q = dense(found[kind].blocks[name])
                error[kind] = ((matrix - fisher).norm() / fisher.norm()).item()
                if kind != "kfac":
                    assert matrix.trace().item() == pytest.approx(fisher.trace().item(), rel=1e-10)
                    torch.testing.assert_close(
                        (q.T @ fisher @ q).diag(), matrix_of(found[kind], name), atol=1e-10, rtol=0
                    )
            assert error["ekfac"] <= error["kfac"] + 1e-12
            farther += error["kfac"] > error["ekfac"] + 1e-4 and error["diagonal"] > 2 * error["ekfac"]
    assert farther > 20  # and mostly strictly, and both far closer than the diagonal


def matrix_of(ekfac, name):
    return ekfac.blocks[name].moments.flatten()


@pytest.mark.parametrize("kind", ["ekfac", "kfac"])
def test_one_example_and_one_label_are_exact(kind):
    model, x = mlp(0)
    loss = lambda logits: [F.cross_entropy(logits, torch.tensor([2]), reduction="none")]  # noqa: E731
    ekfac = observed(model, x[:1], loss, kind=kind)
    for name in ("0", "2"):
        g = per_example(model, x[:1], lambda logits: -torch.log_softmax(logits, -1)[2], name)
        torch.testing.assert_close(dense(ekfac.blocks[name])[0], g.T @ g, atol=1e-12, rtol=1e-9)


def test_independent_inputs_and_gradients_are_exact():
    """All pairs of 5 inputs and 4 gradients: E[aa^T x gg^T] is a Kronecker product, so that all three agree."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=False).double()
    a, g = torch.randn(5, 3).double(), torch.randn(4, 2).double()
    x, slopes = a.repeat_interleave(4, 0), g.repeat(5, 1)
    rows = (slopes.unsqueeze(2) * x.unsqueeze(1)).flatten(1)
    for kind in ("ekfac", "kfac"):
        ekfac = observed(layer, x, lambda out: [(slopes * out).sum(1)], kind=kind)
        torch.testing.assert_close(dense(ekfac.blocks[""])[0], rows.T @ rows / 20, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_solved_for_as_by_the_dense_matrix(kind):
    model, x = mlp(3)
    ekfac = observed(model, x, exactly, kind=kind, damping=0.07)
    F.cross_entropy(model(x), torch.arange(64) % 4).backward()
    before = {name: block.gradient().flatten().clone() for name, block in ekfac.blocks.items()}
    ekfac()
    for name, block in ekfac.blocks.items():
        matrix = dense(block)[0] + 0.07 * torch.eye(block.moments.numel())
        torch.testing.assert_close(block.gradient().flatten(), torch.linalg.solve(matrix, before[name]))


@pytest.mark.parametrize("kind", ["ekfac", "kfac"])
def test_one_step_solves_least_squares(kind):
    """A linear Gaussian model with inputs of scales 1e-2 to 10: the step of length 1 is Newton's."""
    torch.manual_seed(0)
    scales = torch.logspace(-2, 1, 5).double()
    x, y = torch.randn(200, 5).double() * scales, torch.randn(200, 1).double()
    model = nn.Linear(5, 1).double()
    ekfac = observed(model, x, lambda out: [out.squeeze(1)], kind=kind)
    (0.5 * (model(x) - y) ** 2).mean().backward()
    ekfac()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(200, 1)], 1), y).solution.squeeze(1)
    found = torch.cat([model.weight[0], model.bias]).detach()
    torch.testing.assert_close(
        found * torch.cat([scales, torch.ones(1)]), solution * torch.cat([scales, torch.ones(1)]), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("conv", [
    {"kernel_size": 3},
    {"kernel_size": (2, 3), "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 2, "dilation": (1, 2)},
])  # fmt: skip
def test_the_second_moments_of_a_convolution_are_those_of_its_per_example_gradients(conv):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, **conv), nn.Tanh(), nn.Flatten(), nn.LazyLinear(4)).double()
    x = torch.randn(9, 2, 6, 7).double()
    model(x)
    y = torch.arange(9) % 4
    ekfac = observed(model, x, lambda logits: [F.cross_entropy(logits, y, reduction="none")])
    block = ekfac.blocks["0"]
    params = {name: p.detach() for name, p in model.named_parameters()}
    grads = vmap(
        grad(lambda p, one, label: F.cross_entropy(functional_call(model, p, (one[None],)), label[None])), (None, 0, 0)
    )(params, x, y)
    g = grads["0.weight"].flatten(2)
    if model[0].bias is not None:
        g = torch.cat([g, grads["0.bias"].unsqueeze(2)], 2)
    q_a, q_g = block.factors["basis_a"], block.factors["basis_g"]
    torch.testing.assert_close(block.moments, (q_g.T @ g @ q_a).square().mean(0), atol=1e-8, rtol=1e-8)
    rows = input_rows(model[0], x, 9)  # A of KFC, patch by patch; G over locations
    outputs = rows[..., : model[0].weight[0].numel()] @ model[0].weight.flatten(1).T
    outputs = outputs if model[0].bias is None else outputs + model[0].bias
    torch.testing.assert_close(outputs.transpose(1, 2).reshape(9, 3, *model[0](x).shape[2:]), model[0](x))
    torch.testing.assert_close(block.factors["a"], sum(row.T @ row for row in rows) / 9)
    at = model[0](x).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(F.cross_entropy(model[1:](at), y, reduction="sum"), at)
    slopes = slopes.transpose(0, 1).flatten(1)
    torch.testing.assert_close(block.factors["g"], slopes @ slopes.T / slopes.shape[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_convolution_of_one_pixel_is_a_linear_layer(kind):
    torch.manual_seed(0)
    linear = nn.Linear(4, 3).double()
    conv = nn.Sequential(nn.Conv2d(4, 3, 1), nn.Flatten()).double()
    conv[0].load_state_dict({"weight": linear.weight.view(3, 4, 1, 1), "bias": linear.bias})
    x = torch.randn(7, 4).double()
    for model, inputs in ((linear, x), (conv, x.view(7, 4, 1, 1))):
        ekfac = observed(model, inputs, exactly, kind=kind, damping=0.1)
        model(inputs).square().sum().backward()
        ekfac()
    torch.testing.assert_close(conv[0].weight.grad.flatten(1), linear.weight.grad)
    torch.testing.assert_close(conv[0].bias.grad, linear.bias.grad)


def test_kfac_does_not_depend_on_the_coordinates_of_the_inputs_and_sgd_does():
    """Inputs x B and weights W B^-T: the change of the function is the same, at damping 0."""
    model, x = mlp(5)
    torch.manual_seed(9)
    b = torch.randn(6, 6).double() + 2 * torch.eye(6)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.copy_(model[0].weight @ torch.linalg.inv(b).T)
    y = torch.arange(64) % 4
    changes = {}
    for kind in ("kfac", "sgd"):
        for name, start, inputs in (("plain", model, x), ("turned", other, x @ b)):
            net = copy.deepcopy(start)
            ekfac = EKFAC(net[0], kind="kfac", damping=0.0, decay=0.0)
            with ekfac.recording():
                out = net(inputs)
            ekfac.observe(exactly(out))
            F.cross_entropy(out, y).backward()
            if kind == "kfac":
                ekfac()
            torch.optim.SGD(net[0].parameters(), lr=1e-2).step()
            changes[kind, name] = net(inputs).detach() - out.detach()
    torch.testing.assert_close(changes["kfac", "plain"], changes["kfac", "turned"], atol=1e-8, rtol=0)
    assert (changes["sgd", "plain"] - changes["sgd", "turned"]).norm() > 0.1 * changes["sgd", "plain"].norm()


def test_a_new_basis_takes_over_the_diagonal_of_the_fisher_that_was():
    """And the batch enters as a second moment in the new basis: decay d and the old F, 1 - d and the batch's."""
    model, x = mlp(1)
    ekfac = observed(model, x, exactly, decay=0.5, basis_every=2)
    block = ekfac.blocks["0"]
    for _ in range(2):  # the second of these begins with a new basis
        before, batch = dense(block)[0], x + torch.randn_like(x)
        with ekfac.recording():
            out = model(batch)
        ekfac.observe(exactly(out))
    _, q = dense(block)
    assert not torch.allclose(dense(block)[0], before)
    expected = 0.5 * (q.T @ before @ q).diag() + 0.5 * (q.T @ exact_fisher(model, batch, "0") @ q).diag()
    torch.testing.assert_close(block.moments.flatten(), expected)


@pytest.mark.parametrize("delta", [1e-3, 2e-3])
def test_the_trust_region_holds_the_kl_divergence_with_its_factor_two(delta):
    torch.manual_seed(0)
    model = nn.Linear(3, 4).double()
    x = torch.randn(32, 3).double()
    before = torch.log_softmax(model(x), -1).detach()
    ekfac = observed(model, x, exactly, kl_limit=delta, damping=1e-4)
    (model(x)[:, 0] * torch.randn(32)).mean().backward()
    gradient = model.weight.grad.clone()
    ekfac(5.0)
    torch.optim.SGD(model.parameters(), lr=5.0).step()
    kl = (before.exp() * (before - torch.log_softmax(model(x), -1))).sum(1).mean().item()
    assert 0.8 <= kl / delta <= 1.25 and ekfac.predicted_kl.item() == pytest.approx(delta)
    assert not torch.equal(gradient, model.weight.grad)


def test_a_small_step_is_left_at_its_length():
    model, x = mlp(0)
    free, bound = (observed(model, x, exactly, kl_limit=limit, damping=0.1) for limit in (0.0, 1e-3))
    steps = []
    for ekfac in (free, bound):
        model.zero_grad()
        F.cross_entropy(model(x), torch.arange(64) % 4).backward()
        ekfac(1e-4)
        steps.append(model[0].weight.grad.clone())
    assert torch.equal(*steps) and 0 < bound.predicted_kl.item() < 1e-3
    model.zero_grad(set_to_none=False)
    bound(1e-4)
    assert not model[0].weight.grad.any()  # a gradient of 0 is no 0 / 0


class Odd(nn.Module):
    """Layers that have no Kronecker factors, beside two that have."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.norm = nn.LayerNorm(4)
        self.wide = nn.Linear(4, 9)
        self.grouped = nn.Conv2d(2, 2, 1, groups=2)
        self.twin = nn.Linear(4, 4, bias=False)
        self.other = nn.Linear(4, 4, bias=False)
        self.other.weight = self.twin.weight
        self.head = nn.Linear(9, 2)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = self.grouped(self.other(self.twin(self.norm(self.scale * x))).view(-1, 2, 2, 1)).flatten(1)
        return self.head(torch.relu_(self.wide(x)))


def test_what_has_no_factors_falls_back_to_the_diagonal_and_is_named():
    torch.manual_seed(0)
    model = Odd().double()
    x = torch.randn(16, 4).double()
    ekfac = EKFAC(model, damping=0.5, decay=0.9999, max_dim=8)
    assert set(ekfac.fallbacks) == {"wide", "grouped", "twin", "head"}, "vectors have none either, and need none"
    assert "9 wide" in ekfac.fallbacks["head"] and "shares" in ekfac.fallbacks["twin"]
    for _ in range(500):
        with ekfac.recording():
            out = model(x)
        ekfac.observe(exactly(out))
    single = {name: part.moments for name, part in ekfac.single.items()}
    for name, moments in single.items():  # 500 draws of the signs; the truth is the mean of squares
        params = {key: p.detach() for key, p in model.named_parameters()}
        square = 0.0
        p = torch.softmax(model(x), -1).detach()
        for k in range(2):
            g = vmap(
                grad(lambda q, one, k=k: -torch.log_softmax(functional_call(model, q, (one[None],))[0], -1)[k]),
                (None, 0),
            )(params, x)
            square = square + (p[:, k].view(-1, *[1] * (g[name].ndim - 1)) * g[name] ** 2).mean(0)
        torch.testing.assert_close(moments, square, rtol=0.35, atol=2e-4)
    model(x).sum().backward()
    model.unused.weight.grad = torch.ones(2, 2).double()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    ekfac()
    torch.testing.assert_close(model.twin.weight.grad, gradient["twin.weight"] / (single["twin.weight"] + 0.5))
    torch.testing.assert_close(
        model.wide.bias.grad, gradient["wide.bias"] / (ekfac.blocks["wide"].moments[:, -1] + 0.5)
    )
    assert torch.equal(model.unused.weight.grad, torch.ones(2, 2))


def test_a_layer_that_is_used_twice_has_its_uses_summed():
    torch.manual_seed(0)
    layer = nn.Linear(3, 3).double()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    x, y = torch.randn(8, 3).double(), torch.arange(8) % 3
    ekfac = observed(model, x, lambda out: [F.cross_entropy(out, y, reduction="none")], kind="diagonal")
    g = [torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), layer.weight)[0] for i in range(8)]
    torch.testing.assert_close(ekfac.blocks["0"].moments[:, :-1], torch.stack(g).square().mean(0))


def test_rows_that_do_not_count_change_nothing():
    model, x = mlp(0)
    keep = torch.arange(64) % 3 > 0
    few = observed(model, x[keep], exactly)
    ekfac = EKFAC(model, decay=0.0, damping=0.0)
    with ekfac.recording():
        out = model(x)
    ekfac.observe(exactly(out), keep)
    for name, tensor in few.tensors().items():
        if "basis" not in name:
            torch.testing.assert_close(ekfac.tensors()[name], tensor)
    with ekfac.recording():
        out = model(x)
    ekfac.observe(exactly(out), torch.zeros(64, dtype=torch.bool))
    assert ekfac.blocks["0"].count == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_goes_on_to_the_bit(kind):
    def steps(model, ekfac, n, seed):
        draw = torch.Generator().manual_seed(seed)
        for _ in range(n):
            x = torch.randn(16, 6, generator=draw).double()
            with ekfac.recording():
                out = model(x)
            ekfac.observe(exactly(out), generator=draw)
            model.zero_grad()
            F.cross_entropy(out, torch.arange(16) % 3).backward()
            ekfac(0.1)
            torch.optim.SGD(model.parameters(), lr=0.1).step()

    def build():
        torch.manual_seed(4)
        model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)).double()
        return model, EKFAC(model, kind=kind, basis_every=3)

    model, ekfac = build()
    steps(model, ekfac, 5, 0)
    saved = {k: x.clone() for k, x in ekfac.tensors().items()}
    weights = copy.deepcopy(model.state_dict())
    steps(model, ekfac, 4, 1)
    again, other = build()
    again.load_state_dict(weights)
    other.load_tensors(saved)
    steps(again, other, 4, 1)
    assert all(torch.equal(x, y) for x, y in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(weights["0.weight"], model[0].weight)
    with pytest.raises(ValueError, match="another model"):
        EKFAC(nn.Linear(2, 2)).load_tensors(saved)


def test_misuse_is_named():
    with pytest.raises(ValueError, match="ekfac, kfac or diagonal"):
        EKFAC(nn.Linear(2, 2), kind="kfacc")
    with pytest.raises(ValueError, match="decay"):
        EKFAC(nn.Linear(2, 2), decay=1.0)
    layer = nn.Linear(2, 2)
    ekfac = EKFAC(layer)
    with pytest.raises(ValueError, match="before the first step"):
        ekfac()
    out = layer(torch.ones(4, 2))
    with pytest.raises(ValueError, match="recording"):
        ekfac.observe([out.sum(1)])
    with ekfac.recording():
        out = layer(torch.ones(4, 2))
    with pytest.raises(ValueError, match="multiple of the 3 losses"):
        ekfac.observe([out.sum(1)[:3]])
    assert math.isfinite(out.sum().item()) and layer.weight.grad is None
    with ekfac.recording():
        out = layer(torch.full((4, 2), math.nan))
    with pytest.raises(FloatingPointError, match="no eigenbasis"):
        ekfac.observe([out.sum(1)])


def test_the_example_of_the_docstring_learns_in_fewer_steps_than_plain_sgd():
    """Inputs of scales 0.1 to 10: 30 steps of 0.5 are enough with it, and not without."""
    example = textwrap.dedent(EKFAC.__doc__.split("(arXiv 1806.03884).\n\n")[1].split("\n\n    ``observe``")[0])
    plain = "\n".join(line for line in example.splitlines() if not line.strip().startswith("ekfac()"))
    torch.manual_seed(0)
    x = torch.randn(200, 6) * torch.logspace(-1, 1, 6)
    y = ((x / torch.logspace(-1, 1, 6)) @ torch.randn(6, 3)).argmax(1)
    losses = []
    for code in (example, plain):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
        exec(code, {"torch": torch, "F": F, "EKFAC": EKFAC, "model": model, "batches": [(x, y)] * 30})
        losses.append(F.cross_entropy(model(x), y).item())
    assert losses[0] < 0.25 and losses[1] > 0.5, losses


def test_an_eigenbasis_that_is_nan_in_single_precision_is_found_in_double(monkeypatch):
    """As LAPACK did with a finite factor after 2060 updates of MinAtar Breakout."""
    from gala.optim import ekfac_layers

    matrix, real = torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.linalg.eigh
    monkeypatch.setattr(
        torch.linalg, "eigh", lambda m: [x * (math.nan if m.dtype == torch.float32 else 1) for x in real(m)]
    )
    values, basis = ekfac_layers._eigenbasis(matrix)
    torch.testing.assert_close(basis @ torch.diag(values) @ basis.T, matrix)
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: [x * math.nan for x in real(m)])
    with pytest.raises(torch.linalg.LinAlgError, match="not finite"):
        ekfac_layers._eigenbasis(matrix)


def test_factors_of_units_that_have_died_end_at_zero_and_not_among_the_subnormal_numbers():
    layer = nn.Linear(3, 2)
    ekfac = EKFAC(layer, decay=0.5, basis_every=10)
    for i in range(130):
        x = torch.rand(4, 3) * torch.tensor([1.0, 1.0, float(i < 2)])
        with ekfac.recording():
            out = layer(x)
        ekfac.observe([out.square().sum(1)])
    factor = ekfac.blocks[""].factors["a"]
    assert factor[2].tolist() == [0.0] * 4 and (factor[:2, :2] > 1e-3).all()


def test_an_eigenbasis_that_single_precision_does_not_find_is_found_in_double(monkeypatch):
    found = torch.linalg.eigh

    def only_double(matrix):
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge")
        return found(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", only_double)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ekfac = EKFAC(model)
    with ekfac.recording():
        out = model(torch.randn(8, 3))
    ekfac.observe([out.square().sum(1)])
    basis = ekfac.blocks[""].factors["basis_a"]
    assert basis.dtype == torch.float32
    torch.testing.assert_close(basis.T @ basis, torch.eye(4))
