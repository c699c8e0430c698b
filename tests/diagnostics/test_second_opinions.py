"""What other libraries find: curvlinops 3.0.1 and nngeometry 0.4, where they are installed.

Neither is needed for anything else, and both want torchvision, which they do not use here:
``pip install --no-deps curvlinops-for-pytorch==3.0.1 backpack-for-pytorch einconv einops linear_operator opt_einsum
unfoldNd nngeometry jaxtyping wadler-lindig``.
"""

import functools

import pytest
import torch
from torch import nn

from gala.diagnostics import curvature
from gala.optim.ekfac import EKFAC

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
LAYERS = ("0", "2")


@pytest.fixture
def network():
    """(model, its parameters, inputs, labels), float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    return model, list(model.parameters()), torch.randn(32, 6).double(), torch.arange(32) % 4


def columns(product, size):
    return torch.stack([product(e) for e in torch.eye(size).double()], 1)


def test_products_with_the_hessian_and_the_gauss_newton_matrix_are_those_of_curvlinops(network):
    curvlinops = pytest.importorskip("curvlinops")
    model, params, x, y = network
    loss, size = nn.CrossEntropyLoss(), sum(p.numel() for p in params)
    out = model(x)
    ours = {
        curvlinops.HessianLinearOperator: curvature.hessian_product(lambda: loss(model(x), y), params),
        curvlinops.GGNLinearOperator: curvature.gauss_newton_product(
            out, curvature.bend_of_loss(lambda logits: loss(logits, y), out), params
        ),
    }
    for operator, product in ours.items():
        theirs = operator(model, loss, params, [(x, y)]) @ torch.eye(size).double()
        torch.testing.assert_close(columns(product, size), theirs, rtol=1e-6, atol=1e-10)


def exact(model, x, kind):
    """Every label, as one loss each, as the expectation over the model's own."""
    ekfac = EKFAC(model, kind=kind, decay=0.0, damping=0.0)
    with ekfac.recording():
        log_p = torch.log_softmax(model(x), -1)
    ekfac.observe([-log_p[:, k] * log_p[:, k].detach().mul(0.5).exp() for k in range(log_p.shape[1])])
    return ekfac


def dense(block):
    """Rows and columns in the order of the weights, row by row, and then of the biases."""
    q = torch.kron(block.factors["basis_g"], block.factors["basis_a"])
    matrix = q @ block.moments.flatten().diag() @ q.T
    outputs, inputs = block.moments.shape
    place = torch.arange(outputs * inputs).view(outputs, inputs)
    order = torch.cat([place[:, :-1].flatten(), place[:, -1]])
    return matrix[order][:, order]


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_the_approximations_of_the_fisher_matrix_are_those_of_curvlinops(network, kind):
    curvlinops = pytest.importorskip("curvlinops")
    model, params, x, y = network
    operator = {"kfac": curvlinops.KFACLinearOperator, "ekfac": curvlinops.EKFACLinearOperator}[kind]
    settings = {"fisher_type": curvlinops.FisherType.TYPE2, "separate_weight_and_bias": False}
    theirs = operator(model, nn.CrossEntropyLoss(), params, [(x, y)], **settings)
    theirs = theirs @ torch.eye(sum(p.numel() for p in params)).double()
    ours = torch.block_diag(*(dense(exact(model, x, kind).blocks[name]) for name in LAYERS))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_ekfac_is_that_of_nngeometry(network, monkeypatch):
    pytest.importorskip("nngeometry")
    monkeypatch.setattr(torch, "ones", functools.partial(torch.ones, dtype=torch.float64))  # it knows float32 only
    from nngeometry.layercollection import LayerCollection
    from nngeometry.metrics import FIM
    from nngeometry.object import PMatEKFAC
    from torch.utils.data import DataLoader, TensorDataset

    model, _, x, y = network
    loader = DataLoader(TensorDataset(x, y), batch_size=len(x))
    layers = LayerCollection.from_model(model)
    theirs = FIM(
        layer_collection=layers, model=model, loader=loader, representation=PMatEKFAC, variant="classif_logits"
    )
    theirs.update_diag(loader)
    ours = torch.block_diag(*(dense(exact(model, x, "ekfac").blocks[name]) for name in LAYERS))
    torch.testing.assert_close(ours, theirs.to_torch(), rtol=1e-5, atol=1e-7)
