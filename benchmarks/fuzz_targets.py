"""What ``fuzz_readers.py`` damages: one good file, or several, for each reader of what people write or copy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gala_envs.contexts import ContextSet
from gala_envs.families import make_family
from gala_envs.for_gymnasium import as_gymnasium, read_log
from gala_envs.splits import split

import gala
from gala.config.parse import load_config, parse_config
from gala.evaluation import weights
from gala.experiments.rows import read_rows
from gala.gossip.graphs.from_file import load_topology
from gala.gossip.record import read_record
from gala.models.actor_critic import ActorCritic
from gala.overfit.scores import read_scores
from gala.overfit.study import Study
from gala.overfit.tasks import audit_tasks
from gala.runs.run_dir import RunDir

EDGES = b"# four learners\n0 1 0.5\n1 2 0.25\n2 3\n3 0\n---\n0 2\n2 0\n1 3\n3 1\n"
ROUNDS = b"rounds:\n  - [[0, 1], [1, 2, 0.5], [2, 0]]\n  - [[0, 2], [2, 1], [1, 0]]\n"
MATRIX = b"matrix:\n  - [0.5, 0.25, 0.0]\n  - [0.5, 0.5, 0.5]\n  - [0.0, 0.25, 0.5]\n"
PRESET = b"env:\n  id: CartPole-v1\nmodel: {hidden: [64, 64], activation: tanh}\noptim:\n  lr: 7e-4\nsteps: 20_000\n"
RECORD = b"u 12.5\np 1 0.25\nt 1 2\nd\nm 3,4\nu 25\n"
SCORES = b"run,context,set,return,success\na,1,train,1.5,1\na,2,test,0.5,0\nb,1,train,1.25,1\nb,2,test,-2e-1,0\n"
TASKS = b"set,context,text\ntrain,1,Add 1 and 2\ntest,2,add 1.0 and  2\ntest,3,Add 2 and 2\n"
NEEDED = {"name": "a-s1", "group": "a", "settings": {}, "env_steps": 10, "curve": {}, "seed": 1, "evaluation": {}}


class Target(NamedTuple):
    """``read(path)`` reads what is damaged at ``path``; ``names`` are what a refusal must tell at least one of."""

    path: Path
    good: list[bytes]
    read: Callable[[Path], Any]
    names: tuple[str, ...] = ()


def targets(folder: Path) -> dict[str, Target]:
    """By name. Each has files of its own below ``folder``."""
    return {
        "edges": Target(folder / "graph.txt", [EDGES], load_topology),
        "graph-yaml": Target(folder / "graph.yaml", [ROUNDS, MATRIX], load_topology),
        "preset": Target(folder / "preset.yaml", [PRESET], lambda path: parse_config([f"preset={path}"])),
        "record": Target(folder / "record0.txt", [RECORD], read_record),
        "scores": Target(folder / "scores.csv", [SCORES], read_scores),
        "tasks": Target(folder / "tasks.csv", [TASKS], audit_tasks),
        **_of_a_run(folder / "run"),
        **_of_contexts(folder),
        **_of_weights(folder),
        **_of_studies(folder),
    }


def _of_a_run(path: Path) -> dict[str, Target]:
    run = RunDir.create(parse_config(["env.id=CartPole-v1", f"run={path}"]), ["env.id=CartPole-v1"], overwrite=False)
    for step in (10, 20):
        run.append_metrics({"global_step": step, "charts/SPS": 2.5, "learner0": {"losses/value": 0.5}})
        run.write_part("staging", "learner0", {"policy": {"w": torch.arange(4.0)}}, {"updates": step})
        run.commit_checkpoint("staging", ["latest", f"step{step}"], {"env_steps": step, "ranks": [0]})
    run.write_summary({"return_mean": 12.5, "env_steps": 20, "status": "finished"})
    run.close()
    part = next(path.glob("checkpoints/*/learner0.safetensors"))
    name = next(n for n in ("step10", "step20") if (path / "checkpoints" / n).resolve() == part.parent.resolve())

    def checkpoint(_: Path) -> None:
        run.load_part(name, "learner0")

    meta = part.with_name("meta.json")
    files = {
        "config": (path / "config.yaml", load_config),
        "metrics": (path / "metrics.jsonl", lambda p: run.read_metrics()),
        "summary": (path / "summary.json", lambda p: run.read_summary()),
        "request": (path / "wanted_learners", lambda p: run.take_wanted_learners()),
        "checkpoint": (part, checkpoint),
        "checkpoint-meta": (meta, lambda p: run.checkpoint_meta(name)),
    }
    (path / "wanted_learners").write_text("4")
    return {key: Target(p, [p.read_bytes()], read, ("checkpoints",)) for key, (p, read) in files.items()}


def _of_contexts(folder: Path) -> dict[str, Target]:
    sets = split(make_family("classic:CartPole-v1"), {"train": 3, "test": 2})
    path, log = folder / "train.json", folder / "played.jsonl"
    sets["train"].write(path)
    env = as_gymnasium(sets["train"], log=log)
    for seed in range(3):
        env.reset(seed=seed)
    return {
        "contexts": Target(path, [path.read_bytes()], ContextSet.read),
        "played": Target(log, [log.read_bytes()], read_log),
    }


def _of_weights(folder: Path) -> dict[str, Target]:
    config = parse_config(["env.id=CartPole-v1", "model.encoder=mlp", "model.hidden=4", "run=unused"])
    obs, action = gym.spaces.Box(-1, 1, (4,), np.float32), gym.spaces.Discrete(2)
    path = folder / "agent.safetensors"
    policy = ActorCritic(obs, action, config.model)
    weights.write(path, policy, None, weights.Description(config.model, obs, action, config.env.id), False)
    return {"weights": Target(path, [path.read_bytes()], gala.load)}


def _of_studies(folder: Path) -> dict[str, Target]:
    rows = folder / "results.jsonl"
    lines = "".join(json.dumps({**NEEDED, "seed": seed}) + "\n" for seed in (1, 2)).encode()
    study = Study.create(folder / "study", {"command": "sweep bits", "delta": 0.05})
    study.append("n2-run0", [{"run": 0, "set": "train", "return": 1.5}])
    return {
        "rows": Target(rows, [lines], read_rows),
        "study": Target(
            study.path / "study.json",
            [(study.path / "study.json").read_bytes()],
            lambda p: Study.create(p.parent, {"command": "sweep bits"}, resumes=True).done(),
            ("study",),
        ),
    }
