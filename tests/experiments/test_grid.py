"""A grid's rows and folders, without training anything."""

import dataclasses
import json

import pytest

from gala import cli
from gala.commands.compare.words import cells, sort_words
from gala.experiments.grid import Grid, Plan
from gala.runs.run_dir import RunDir

WORDS = ("preset=classic/cartpole", "steps=10000", "seeds=1", "envs=4", "learners=2")


def make_grid(out, *words):
    return Grid(cells(sort_words([*WORDS, *words])), Plan(out, 4, "sampled", 1, 1, {}))


def train(grid, cell, **changes):
    """Writes what a finished training of the cell and its judging leave, but for records."""
    job, judging = grid.training(cell), grid.judging(cell)
    config = cell.config.__class__(**{**vars(cell.config), "run": str(job.run), **changes})
    run = RunDir.create(config, job.words, overwrite=False)
    for rank in range(config.learners):
        run.write_part("staging", f"learner{rank}", {}, {})
    run.commit_checkpoint("staging", ["latest"], {"ranks": [*range(config.learners)], "env_steps": config.steps})
    run.write_summary({"status": "finished", "failures": []})
    run.close()
    judging.out.parent.mkdir(exist_ok=True)
    policies = {"sampled": {f"learner{rank}": {"return_mean": 9.0} for rank in range(config.learners)}}
    found = {"score": {"sampled": 9.0}, "policies": policies, "random_return": 1.0, "request": judging.request()}
    judging.out.write_text(json.dumps(found))
    return job


@pytest.fixture
def made(tmp_path):
    grid = make_grid(tmp_path / "out", "algos=a2c,gala")
    for cell in grid.cells:
        train(grid, cell)
    return grid


def test_a_training_whose_records_are_gone_has_a_row_and_a_line(made):
    cell = made.cells[0]
    made.keep(cell)
    assert made.rows()[0]["seconds"] is None and made._result(cell) == "sampled 9.00; 10,000 env_steps"


def test_runs_are_not_compared_into_the_folder_of_their_grid(made, capsys):
    """Its rows would lose machine, parts and watts, and the grid would judge all runs again."""
    pytest.importorskip("matplotlib")
    for cell in made.cells:
        made.keep(cell)
    before = made.plan.results.read_bytes()
    runs = [str(made.training(cell).run) for cell in made.cells]
    assert cli.main(["compare", *runs, "episodes=1", f"out={made.plan.out}"]) == 2
    assert "holds a grid of trainings" in capsys.readouterr().err and made.plan.results.read_bytes() == before


def test_a_run_that_names_other_code_than_its_row_is_not_resumed(tmp_path):
    """A grid's own runs are resumed without asking for trust: what they name is what was typed."""
    grid = make_grid(tmp_path / "out", "algos=a2c")
    (cell,) = grid.cells
    train(grid, cell)
    grid.keep(cell)
    grid.check()
    other = make_grid(tmp_path / "out", "algos=a2c")
    other.plan = dataclasses.replace(grid.plan, episodes=5)  # so that it is not done
    other.check()
    config = other.training(cell).run / "config.yaml"
    config.write_text(config.read_text().replace("CartPole-v1", "theirs:Pole-v0"))
    with pytest.raises(ValueError, match=r"holds a2c-s1 with env\.id=theirs:Pole-v0, not CartPole-v1"):
        other.check()
