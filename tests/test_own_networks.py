"""Networks of a user's own with what such networks have: pretrained layers, batch normalisation, masks in buffers."""

import pytest
import torch
from training import TINY, Gala, parts

from gala.build.envs import probe_spaces
from gala.build.policy import make_policy
from gala.cli import main
from gala.runs.run_dir import RunDir


class Pretrained(torch.nn.Module):
    """A layer that does not learn, a norm over the batch, and a mask of -inf that is saved with the parameters."""

    def __init__(self, space, hidden, activation):
        super().__init__()
        self.num_features = hidden[-1]
        self.given = torch.nn.Linear(space.shape[0], 8).requires_grad_(False)
        self.norm = torch.nn.BatchNorm1d(8)
        self.learned = torch.nn.Linear(8, self.num_features)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))

    def forward(self, obs):
        return self.learned(self.norm(self.given(obs))).tanh()


OWN = (*TINY, "env.id=CartPole-v1", "env.max_episode_steps=12", "algo=a2c", "envs_per_learner=3")
OWN += ("model.encoder=test_own_networks:Pretrained", "optim.name=torch.optim:AdamW", "optim.lr=0.01", "a2c.l2=0.01")


def test_what_does_not_learn_stays_single_rows_have_values_and_infinite_masks_resume(tmp_path):
    """Weight decay and l2 had moved the pretrained layer; one row alone at its time limit had ended the training."""
    code, _, err = Gala(tmp_path / "run", *OWN, "steps=900").end()
    assert (code, err) == (0, "")
    code, _, err = Gala(tmp_path / "run", "steps=1800", "schedule=stretch", command="resume").end()
    assert (code, err) == (0, "")
    run = RunDir.open(tmp_path / "run")
    begun = make_policy(run.config, probe_spaces(run.config)).state_dict()
    ((tensors, _),) = parts(run)
    ended = tensors["policy"]
    assert torch.equal(ended["encoder.given.weight"], begun["encoder.given.weight"])
    assert torch.equal(ended["encoder.mask"], begun["encoder.mask"])
    for name in ("encoder.learned.weight", "encoder.norm.running_mean"):
        assert not torch.equal(ended[name], begun[name])


@pytest.mark.parametrize("what", ["noise", "curvature"])
def test_diagnostics_of_a_network_that_learns_in_part_are_refused_before_anything_starts(what, tmp_path, capsys):
    assert main(["train", *OWN, f"run={tmp_path / 'run'}", f"diagnose.{what}=5"]) == 2
    assert f"diagnose.{what} needs the gradient of all parameters, and encoder.given.weight" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
