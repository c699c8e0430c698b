"""The closed form of receptive fields against the support of a gradient, and against published numbers."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from gala.build.auto import choose
from gala.build.envs import Spaces
from gala.build.policy import encoder_summary
from gala.config.parse import parse_config
from gala.config.schema import ModelConfig
from gala.models.actor_critic import num_parameters
from gala.models.bagnet import BAGNET_KERNELS
from gala.models.encoders import make_encoder
from gala.models.receptive_field import receptive_field
from gala.models.residual import ResidualStack


def support(layers, channels=1, side=161):
    """(first and last row that a location in the middle depends on, the same of its right neighbour's columns).

    Positive weights, and averages for maxima: no path cancels, none is switched off.
    """
    linear = nn.Sequential(*layers).double()
    for p in linear.parameters():
        nn.init.uniform_(p, 0.5, 1.0)
    image = torch.rand(1, channels, side, side, dtype=torch.float64, requires_grad=True)
    maps = linear(image)
    middle = maps.shape[-1] // 2
    seen = []
    for column in (middle, middle + 1):
        (grad,) = torch.autograd.grad(maps[0, :, middle, column].sum(), image, retain_graph=True)
        seen.append(torch.nonzero(grad.abs().sum((0, 1, 2))).flatten())
    return int(seen[0][-1] - seen[0][0]) + 1, int(seen[1][0] - seen[0][0])


def averages(layer):
    """With a maximum, only one of its inputs has a gradient."""
    if isinstance(layer, nn.MaxPool2d):
        return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
    return layer


ENCODERS = [
    (ModelConfig(encoder="nature_cnn"), (36, 8)),
    (ModelConfig(encoder="a3c_cnn"), (20, 8)),
    (ModelConfig(encoder="minatar_cnn"), (3, 1)),
    (ModelConfig(encoder="impala", blocks=0), (29, 8)),
    (ModelConfig(encoder="impala", blocks=1), None),
    (ModelConfig(encoder="impala", shared_blocks=True), None),
    *((ModelConfig(encoder="bagnet", receptive_field=size), (size, 8)) for size in BAGNET_KERNELS),
]


@pytest.mark.parametrize(("model", "wanted"), ENCODERS)
def test_an_encoder_sees_what_the_formula_says(model, wanted):
    model = dataclasses.replace(model, pooling="mean")
    encoder = make_encoder(gym.spaces.Box(0, 1, (1, 161, 161), np.float32), model)
    got = receptive_field(encoder)
    assert wanted is None or got == wanted
    assert support([averages(layer) for layer in encoder.convs]) == got


def bagnet_of_the_paper(three, blocks=(3, 4, 6, 3), strides=(2, 2, 2, 1)):
    layers = [nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3)]
    for count, depth, stride in zip(three, blocks, strides, strict=True):
        layers += [nn.Conv2d(1, 1, 3 if i < count else 1, stride if i == 0 else 1) for i in range(depth)]
    return layers


@pytest.mark.parametrize(
    ("three", "size"), [((1, 1, 0, 0), 9), ((1, 1, 1, 0), 17), ((1, 1, 1, 1), 33), ((3, 4, 6, 3), 177)]
)
def test_the_four_networks_of_the_paper_see_9_17_33_and_177_pixels(three, size):
    layers = bagnet_of_the_paper(three)
    assert receptive_field(nn.Sequential(*layers)) == (size, 8)
    assert support(layers, side=301) == (size, 8)


def test_dilation_counts_and_repeated_blocks_count_each_time():
    layers = [nn.Conv2d(1, 1, 3, dilation=4), nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, dilation=2, stride=3)]
    assert support(layers, side=81) == receptive_field(nn.Sequential(*layers)) == (9 + 1 + 8, 6)
    stack = ResidualStack(1, 5, shared=True, norm="group", scale=0.1)
    assert receptive_field(stack) == (1 + 5 * 4, 1) and receptive_field(nn.Linear(3, 3)) == (1, 1)


@pytest.mark.parametrize("width", [1, 2])
def test_bagnets_of_all_receptive_fields_have_the_same_size(width):
    space = gym.spaces.Box(0, 1, (3, 32, 32), np.float32)
    models = [ModelConfig(encoder="bagnet", width=width, pooling="mean", receptive_field=r) for r in BAGNET_KERNELS]
    sizes = [num_parameters(make_encoder(space, model)) for model in models]
    assert max(sizes) / min(sizes) < 1.03


def test_a_run_says_what_its_encoder_sees():
    spaces = Spaces(gym.spaces.Box(0, 255, (3, 64, 64), np.uint8), gym.spaces.Discrete(15), 1)
    config = parse_config(["model.encoder=impala", "model.pooling=mean"])
    seen = receptive_field(make_encoder(spaces.obs, config.model))
    assert encoder_summary(config, spaces) == (
        f"impala: receptive field {seen.size} px of 64 x 64, stride 8 px, pooling mean, 106,048 parameters"
    )
    vector = Spaces(gym.spaces.Box(-1, 1, (5,)), gym.spaces.Discrete(2), 1)
    assert encoder_summary(choose(parse_config([]), vector)[0], vector) == "mlp"
