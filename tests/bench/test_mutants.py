"""The list of changes that tests need not notice: each is one that exists, and is told with its reason."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import mutants
import mutants_targets
from mutations import mutants_of

ROOT = Path(__file__).parents[2]
LISTS = (mutants_targets.EQUIVALENT, mutants_targets.ACCEPTED)


@pytest.mark.parametrize("path", sorted({path for each in LISTS for path in each}))
def test_every_change_that_is_excused_exists_and_is_in_one_list(path):
    """Code that moves on would leave excuses behind for changes that nobody can make any more."""
    excused = [name for each in LISTS for name in each.get(path, {})]
    assert len(excused) == len(set(excused)) and path in mutants_targets.TESTS
    assert set(excused) <= {mutant.name for mutant in mutants_of(path, (ROOT / path).read_text())}
    assert all(reason for each in LISTS for reason in each.get(path, {}).values())


def test_survivors_are_told_with_the_reason_if_they_have_one_and_equivalent_ones_not_at_all(monkeypatch, capsys):
    source = "def double(x):\n    return 2 * x if x > 0 else 0\n"
    made = {mutant.name: mutant for mutant in mutants_of("a.py", source)}
    names = ["double: return 2 * x if x > 0 else 0 -> return 3 * x if x > 0 else 0",
             "double: return 2 * x if x > 0 else 0 -> return 2 * x if x >= 0 else 0",
             "double: return 2 * x if x > 0 else 0 -> return 2 / x if x > 0 else 0"]  # fmt: skip
    assert set(names) < set(made)
    same, minor, real = names[1], names[0], names[2]
    monkeypatch.setattr(mutants, "EQUIVALENT", {"a.py": {same: "0 either way"}})
    monkeypatch.setattr(mutants, "ACCEPTED", {"a.py": {minor: "nobody minds"}})
    outcome = dict.fromkeys(made, "noticed") | dict.fromkeys(names, "survived")
    done = {made[name].key: {"outcome": outcome[name]} for name in made if name != same}
    head, *survived = mutants.summarise(list(made.values()), done)
    tried = len(made) - 1
    assert head == {"file": "a.py", "mutants": tried + 1, "equivalent": 1, "tried": tried, "noticed": tried - 2}
    assert survived == [{"survived": f"a.py: {real}"}, {"survived": f"a.py: {minor}", "reason": "nobody minds"}]
    printed = capsys.readouterr().out
    assert f"survived  a.py: {minor}  (accepted: nobody minds)\n" in printed and f"a.py: {real}\n" in printed
    assert same not in printed
