"""Sample Factory's APPO with the settings of its own examples, until killed. Run it with the Python of its own venv.

Pong: its wrappers (30 no-ops, skip 4, 84x84 grey, a lost life ends the episode, sign-clipped rewards, stack 4) on
NoFrameskip-v4. HalfCheetah: v4, as Gymnasium before 1.0 has no v5. Networks: its Atari CNN, MLP 64x64. Rollouts keep
the examples' batch (steps x simulators). Counts are of agent decisions: summaries_use_frameskip=False.

Variants: serial (all in one process), parallel (a rollout worker per core, learner and inference in processes of their
own), each synchronous as in the examples for Atari and MuJoCo, and async (parallel; sampling goes on while learning).
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import gymnasium
import torch
from sample_factory.algo.utils.misc import LEARNER_ENV_STEPS, ExperimentStatus
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import make_runner
from sf_examples.atari.atari_params import atari_override_defaults
from sf_examples.atari.atari_utils import make_atari_env
from sf_examples.mujoco.mujoco_params import mujoco_override_defaults
from worker import Reporter, options, steps_per_env

NAMES = {"pong": "atari_pong", "halfcheetah": "HalfCheetah-v4", "cartpole": "CartPole-v1"}
BATCH = {"pong": 8 * 128, "halfcheetah": 64 * 64, "cartpole": 512}
LONGEST = {"pong": 128, "halfcheetah": 64, "cartpole": 32}
"""Rollouts of the examples; shorter with more simulators than theirs."""


def cartpole_defaults(_env: str, parser: Any) -> None:
    """The command line in the head of sf_examples/train_gym_env.py."""
    parser.set_defaults(use_rnn=False, recurrence=1, with_vtrace=False, batch_size=512, reward_scale=0.1)


DEFAULTS = {"pong": atari_override_defaults, "halfcheetah": mujoco_override_defaults, "cartpole": cartpole_defaults}


def make_env(name: str, cfg: Any, env_config: Any, render_mode: str | None = None) -> gymnasium.Env:
    if not name.startswith("atari"):
        return gymnasium.make(name, render_mode=render_mode)
    import ale_py  # noqa: F401  registers its tasks, in every process that makes one

    return make_atari_env(name, cfg, env_config, render_mode)


def power_of_two(at_most: int) -> int:
    """Minibatches must hold whole rollouts."""
    return 1 << (at_most.bit_length() - 1)


def layout(variant: str, num_envs: int, cores: int) -> list[str]:
    """Settings that share ``num_envs`` simulators out."""
    if variant == "serial":
        return ["--serial_mode=True", "--async_rl=False", "--num_workers=1", f"--num_envs_per_worker={num_envs}"]
    if num_envs % cores:
        raise SystemExit(f"{num_envs} simulators cannot be shared equally among {cores} workers")
    return [
        *("--serial_mode=False", f"--async_rl={variant == 'async'}"),
        *(f"--num_workers={cores}", f"--num_envs_per_worker={num_envs // cores}"),
    ]


def arguments(settings: Any, folder: str) -> list[str]:
    task, variant = settings.task, settings.variant or "serial"
    rollout = power_of_two(min(LONGEST[task], steps_per_env(BATCH[task], settings.num_envs)))
    shared = layout(variant, settings.num_envs, settings.cores)
    # Two halves of a worker's simulators hide the wait for actions, if they can be halved.
    splits = 2 if variant != "serial" and settings.num_envs // settings.cores % 2 == 0 else 1
    return [
        *("--algo=APPO", f"--env={NAMES[task]}", "--device=cpu", f"--seed={settings.seed}", *shared),
        *(f"--worker_num_splits={splits}", f"--rollout={rollout}", "--summaries_use_frameskip=False"),
        *(["--encoder_mlp_layers", "64", "64"] if task != "pong" else []),
        *("--train_for_env_steps=1000000000000000", "--train_for_seconds=1000000000"),
        *("--save_every_sec=1000000", "--save_best_every_sec=1000000", "--heartbeat_reporting_interval=1000000"),
        *("--experiment=rate", f"--train_dir={folder}", "--restart_behavior=overwrite", "--log_to_file=False"),
    ]


def main() -> None:
    settings = options()
    torch.set_num_threads(settings.cores)
    register_env(NAMES[settings.task], make_env)
    with tempfile.TemporaryDirectory(prefix="sample-factory-") as folder:
        argv = arguments(settings, folder)
        parser, partial = parse_sf_args(argv=argv)
        DEFAULTS[settings.task](partial.env, parser)
        _, runner = make_runner(parse_full_cfg(parser, argv))
        report = Reporter()
        # not register_policy_msg_handler, which in 2.1.1 puts a function where the runner wants a list
        handlers = runner.policy_msg_handlers[LEARNER_ENV_STEPS]
        handlers.append(lambda _runner, message, _policy: report(message[LEARNER_ENV_STEPS]))
        if runner.init() != ExperimentStatus.SUCCESS:
            raise SystemExit("sample factory could not start")
        sys.exit(f"training has ended: {runner.run()}")


if __name__ == "__main__":
    main()
