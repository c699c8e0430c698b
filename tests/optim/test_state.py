"""A saved optimiser, loaded again, goes on to the last bit: PyTorch's own, and one that keeps all kinds of things."""

import copy

import pytest
import torch
from torch import nn

from gala.optim.state import load_state_tensors, state_tensors


class Strange(torch.optim.Optimizer):
    """Keeps lists, nested dicts, None and numbers, and counts in its group; the step depends on all of them."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr, "k": 0, "warm": True})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["k"] += 1
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"GG": [torch.zeros(s) if s < 4 else None for s in p.shape], "n": 0, "rate": 1.0}
                    state["inner"] = {
                        "mean": torch.zeros_like(p),
                        "seen": False,
                        "name": f"é{p.ndim}",
                        "none": [],
                        "no": {},
                    }
                state["n"] += 1
                state["rate"] *= 0.9
                state["inner"]["mean"].lerp_(p.grad, 0.3)
                state["inner"]["seen"] = True
                for gram in state["GG"]:
                    if gram is not None:
                        gram.add_(p.grad.square().sum() + state["n"])
                sized = sum(float(gram.sum()) for gram in state["GG"] if gram is not None)
                p.sub_(group["lr"] * state["rate"] / (group["k"] + sized) * state["inner"]["mean"])


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 0.1, amsgrad=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, 0.1),
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "nadam": lambda p: torch.optim.NAdam(p, 0.1),
    "asgd": lambda p: torch.optim.ASGD(p, 0.1),
    "strange": Strange,
}


def _train(model, optimizer, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("flat", [False, True])
def test_what_is_saved_and_loaded_goes_on_to_the_bit(name, flat):
    torch.manual_seed(0)
    model = nn.Module() if flat else nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    if flat:
        model.vector = nn.Parameter(torch.randn(7))
    if flat and name == "strange":
        pytest.skip("numbers of one flat vector are saved as tensors, and None has no place there")
    optimizer = OPTIMIZERS[name](model.parameters())
    _train(model, optimizer, 3, seed=1)
    saved = {key: value.clone() for key, value in state_tensors(optimizer).items()}
    assert all(isinstance(value, torch.Tensor) for value in saved.values()) and saved
    again = copy.deepcopy(model)
    fresh = OPTIMIZERS[name](again.parameters())
    load_state_tensors(fresh, saved)
    _train(model, optimizer, 3, seed=2)
    _train(again, fresh, 3, seed=2)
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


def test_types_come_back_as_they_were():
    p = nn.Parameter(torch.ones(2, 5))
    optimizer = Strange([p, nn.Parameter(torch.ones(3))])
    for q in optimizer.param_groups[0]["params"]:
        q.grad = torch.ones_like(q)
    optimizer.step()
    fresh = Strange([nn.Parameter(torch.ones(2, 5)), nn.Parameter(torch.ones(3))])
    load_state_tensors(fresh, state_tensors(optimizer))
    state = fresh.state[fresh.param_groups[0]["params"][0]]
    assert type(state["n"]) is int and state["n"] == 1 and type(state["rate"]) is float
    assert isinstance(state["GG"], list) and state["GG"][1] is None and state["inner"]["seen"] is True
    assert state["inner"]["name"] == "é2" and state["inner"]["none"] == [] and state["inner"]["no"] == {}
    assert fresh.param_groups[0]["k"] == 1


def test_long_lists_come_back_in_order_whatever_the_order_of_the_names():
    class Longlist(torch.optim.SGD):
        pass

    params = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    optimizer, fresh = (Longlist(params, 0.1, momentum=0.9) for _ in range(2))
    optimizer.state[params[0]]["many"] = [torch.tensor(float(i)) for i in range(12)]
    tensors = state_tensors(optimizer)
    load_state_tensors(fresh, {name: tensors[name] for name in sorted(tensors)})
    assert [float(x) for x in fresh.state[params[0]]["many"]] == list(range(12))


def test_an_optimiser_that_wraps_others_is_saved_by_what_its_state_dict_has_beside():
    params = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]

    class Wrapper(torch.optim.Optimizer):
        def __init__(self):
            super().__init__(params, {"lr": 0.1})
            self.seen = 0

        def state_dict(self):
            return super().state_dict() | {"inner": [{"seen": self.seen}]}

        def load_state_dict(self, state_dict):
            self.seen = state_dict["inner"][0]["seen"]

    one, other = Wrapper(), Wrapper()
    one.seen = 7
    load_state_tensors(other, state_tensors(one))
    assert other.seen == 7


def test_what_no_file_of_tensors_holds_is_refused():
    optimizer = Strange([nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))])
    for q in optimizer.param_groups[0]["params"]:
        q.grad = torch.ones_like(q)
    optimizer.step()
    # Not print: Ray puts a function of its own in its place, for the whole process.
    optimizer.state[optimizer.param_groups[0]["params"][0]]["inner"]["law"] = len
    with pytest.raises(
        ValueError, match="it keeps inner/law, a builtin_function_or_method; tensors, numbers and words"
    ):
        state_tensors(optimizer)
    with pytest.raises(ValueError, match="one flat vector"):
        load_state_tensors(optimizer, {"exp_avg": torch.zeros(6)})


@pytest.mark.parametrize(
    ("shapes", "names"),
    [
        (((3,),), {"momentum_buffer"}),
        (((3, 1),), {"0/momentum_buffer"}),
        (((3,), (2,)), {"0/momentum_buffer", "1/momentum_buffer"}),
        (((),), {"0/momentum_buffer"}),
    ],
)
def test_one_vector_has_plain_names_and_anything_else_has_its_index_before_them(shapes, names):
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = torch.optim.SGD(params, 0.1, momentum=0.5)
    for p in params:
        p.grad = torch.full_like(p, 2.0)
    optimizer.step()
    tensors = state_tensors(optimizer)
    beside = {name for name in tensors if name.startswith("group0/")}
    assert set(tensors) - beside == names and bool(beside) == (shapes != ((3,),))
    for i, p in enumerate(params):
        name = "momentum_buffer" if shapes == ((3,),) else f"{i}/momentum_buffer"
        assert (
            torch.equal(tensors[name], p.grad)
            and tensors[name].data_ptr() == optimizer.state[p]["momentum_buffer"].data_ptr()
        )


def test_a_word_is_kept_as_bytes_and_a_parameter_without_a_state_as_nothing():
    params = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.SGD(params, 0.1)
    optimizer.state[params[0]] |= {"law": "é", "none": None, "no": {}}
    assert optimizer.state[params[1]] == {}
    tensors = {name: x for name, x in state_tensors(optimizer).items() if not name.startswith("group0/")}
    assert set(tensors) == {"0/law!str", "0/none!none", "0/no!dict"}
    assert tensors["0/none!none"].numel() == tensors["0/no!dict"].numel() == 0
    assert tensors["0/law!str"].dtype == torch.uint8 and tensors["0/law!str"].tolist() == [0xC3, 0xA9]


def test_state_lies_where_its_parameter_lies_and_counts_stay_on_the_host():
    """``meta`` stands for a GPU: a checkpoint is read on the CPU."""
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.AdamW([p], 0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    saved = {name: tensor.clone() for name, tensor in state_tensors(optimizer).items()}
    far = nn.Parameter(torch.ones(2, 2, device="meta"))
    elsewhere = torch.optim.AdamW([far], 0.1)
    load_state_tensors(elsewhere, saved)
    state = elsewhere.state[far]
    assert (state["exp_avg"].device.type, state["step"].device.type) == ("meta", "cpu")
