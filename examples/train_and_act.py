"""Train from Python, watch the run, then act with what was learned.

    python examples/train_and_act.py

Two gossiping learners train on CartPole. A callback ends the run early once the mean return is high enough.
"""

import sys

import gymnasium as gym

import gala


def enough(record):
    """Called with each metric record; False ends the run in order, with a checkpoint."""
    return record.get("charts/episodic_return", 0.0) < 450.0


def main(steps=300_000):
    run = gala.train("classic/cartpole", learners=2, steps=steps, log={"interval_s": 1.0}, on_record=enough)
    print(run)
    metrics = run.metrics()
    print(f"{len(metrics['global_step'])} records of {len(metrics)} columns")
    scores = run.evaluate(episodes=10, mode="greedy")
    print(f"10 episodes: return {scores.return_mean:.1f}, 95% interval {scores.return_ci95}")

    run.load().save(run.path / "agent.safetensors")  # weights alone, to take elsewhere
    agent = gala.load(run.path / "agent.safetensors")
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=1)
    over, total = False, 0.0
    while not over:
        obs, reward, terminated, truncated, _ = env.step(agent.act(obs))
        over, total = terminated or truncated, total + reward
    print(f"one more episode, by hand: {total:.0f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
