"""Tables of tasks: which rows are one task is decided by the value of the user's function, not by how it is printed."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from gala.cli import main
from gala.overfit.equality import frozen
from gala.overfit.tasks import audit_tasks

LONG = np.arange(3000.0)
OTHER = LONG.copy()
OTHER[1500] = -1.0  # in the part of an array that a print leaves out


def pairs(path, values):
    """Whether the rows of two tasks, of which ``same=`` returns these values, are found to be one."""
    path.write_text("set,context\n" + "".join(f"{name},{k}\n" for k, name in enumerate(("train", "test"))))
    return bool(audit_tasks(path, lambda row: values[int(row["context"])])["rows"])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": [2, {3}]}, {"b": (2, {3}), "a": 1.0}, True),
        ({"a": 1}, {"a": 2}, False),
        (1, 1.0, True),
        (Fraction(1, 2), np.float32(0.5), True),
        ((1, "1"), ("1", 1), False),
        (LONG, LONG.copy(), True),
        (LONG, OTHER, False),
        (torch.from_numpy(LONG), torch.from_numpy(OTHER), False),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]], True),
        (np.array([1, 2]), np.array([[1], [2]]), False),
        ({1, 2}, {2, 1.0}, True),
        ({("a", 1)}, {"a": 1}, False),
        (("a", None), ("a", None), True),
        (b"x", "x", False),
    ],
)
def test_tasks_are_one_where_the_values_are_equal(one, other, same, tmp_path):
    assert pairs(tmp_path / "tasks.csv", (one, other)) == same


class Nameless:
    """Equal to itself alone."""


class Listed:
    """Equal by what it holds, and no key."""

    def __eq__(self, other):
        return True

    __hash__ = None


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (float("nan"), "NaN, which equals nothing"),
        ({"a": [np.nan]}, "NaN, which equals nothing"),
        (np.array([1.0, np.nan]), "NaN, which equals nothing"),
        (None, "None; return what makes a row that task"),
        (Nameless(), "a Nameless, which cannot be compared by value"),
        ([Listed()], "a Listed, which cannot be compared by value"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_the_row_is_named(value, told, tmp_path):
    with pytest.raises(ValueError, match=f"tasks.csv:3: same= returned {told}") as refused:
        pairs(tmp_path / "tasks.csv", (1, value))
    assert "\n" not in str(refused.value)


def test_equal_values_have_equal_hashes():
    assert hash(frozen({"b": {1}, "a": np.ones(2)})) == hash(frozen({"a": [True, 1.0], "b": frozenset({1.0})}))


def test_a_function_that_ends_the_program_ends_no_command_as_if_nothing_was_found(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.csv").write_text("set,context\ntrain,a\ntest,b\n")
    (tmp_path / "leaves.py").write_text("import sys\n\n\ndef key(row):\n    sys.exit()\n")
    assert main(["overfit", "audit", "tasks.csv", "same=leaves:key"]) == 2
    err = capsys.readouterr().err
    assert "tasks.csv:2: same= failed: SystemExit" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("-0", "0", True),
        ("1e3", "1000", True),
        ("0.1", "0.10000000000000001", True),
        ("NaN", "nan", True),
        ("9007199254740993", "9007199254740992", False),
    ],
)
def test_numbers_in_a_table_are_compared_as_numbers_and_whole_ones_exactly(one, other, same, tmp_path):
    (tmp_path / "tasks.csv").write_text(f"set,context,seed\ntrain,a,{one}\ntest,b,{other}\n")
    assert bool(audit_tasks(tmp_path / "tasks.csv")["rows"]) is same
