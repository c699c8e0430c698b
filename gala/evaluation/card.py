"""The model card of a trained policy: Markdown under the YAML header that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

TASK = "reinforcement-learning"


def hub_header(env: str, played: Sequence[Mapping[str, Any]]) -> str:
    """The YAML header, fences included, with one metric for each mode that was played: the newest evaluation of it.

    Its keys are those of the Hub's model cards (huggingface.co/docs/hub/model-cards), the metric is called and written
    as `huggingface_sb3` does it: ``mean_reward``, ``mean +/- standard deviation``. There is no ``license``: that is for
    whoever publishes it to say.

    Args:
        env: id of the environment.
        played: evaluations of this very policy, as ``gala.runs.evaluations`` reads them, the oldest first.
    """
    name = env.rpartition(":")[2]
    header: dict[str, Any] = {"library_name": "gala", "pipeline_tag": TASK, "tags": [TASK, "gala", name]}
    newest = {told["mode"]: told for told in played}
    if newest:
        result = {
            "task": {"type": TASK, "name": TASK},
            "dataset": {"name": name, "type": name},
            "metrics": [
                {
                    "type": "mean_reward",
                    "value": f"{told['return_mean']:.2f} +/- {told['return_std']:.2f}",
                    "name": f"mean_reward, {told['episodes']} {mode} episodes",
                    "verified": False,
                }
                for mode, told in newest.items()
            ],
        }
        header["model-index"] = [{"name": f"gala {name}", "results": [result]}]
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n"


def model_card(
    header: str, facts: Mapping[str, str], evaluations: list[str], changed: list[tuple[str, Any, Any]], name: str
) -> str:
    """Markdown: what it is, how well it does, how to use it, how it was made. ``name`` is what ``gala.load`` takes."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    played = "\n".join(f"- {text}" for text in evaluations) or "Not evaluated: `gala eval RUN` goes first."
    settings = "\n".join(f"- `{key}={value}` (default {default!r})" for key, value, default in changed)
    return f"""{header}# {facts["environment"]}, trained with gala

| | |
| --- | --- |
{rows}

## Evaluation

{played}

## How to use it

```python
import gala

agent = gala.load("{name}")
action = agent.act(observation)  # one or a batch, NumPy in and out; greedy=False draws from the policy
```

The observation normaliser, if the policy has one, is inside. Observations are those of the environment as gala shows
it: images uint8 [C, H, W], others float32. The file is safetensors: loading it runs no code of its maker's, except an
encoder that the settings name as module:attribute, which asks for trust=True.

## How it was made

{settings or "All settings at their defaults."}

It knows the environment above, with these settings, and nothing else is claimed of it.
"""
