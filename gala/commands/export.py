"""``gala export RUN``: a trained policy as one file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gala.commands.trusted import check_run
from gala.config.own_words import asks_for_help
from gala.config.parse import parse_options
from gala.runs.run_dir import RunDir

USAGE = """usage: gala export RUN [out=FILE]
                   [format=auto|safetensors|onnx|torch-export]
                   [checkpoint=latest|best|NAME] [learner=consensus|K]
                   [push=USER/NAME] [private=true]
                   [overwrite=true] [trust=true]

Write the policy of RUN to one file, or push it to the Hugging Face Hub. The
ending of FILE (.safetensors, .onnx, .pt2) chooses the format, or format= does.

  safetensors   weights, normaliser, settings, evaluations and a model card that
                says how to load them; gala.load(FILE) makes an agent of it
  onnx          a graph for any ONNX runtime (extra export), any batch size
  torch-export  a program of torch.export (.pt2) that runs without gala

Graphs take observations as gala shows them (images uint8 [C, H, W]; the
normaliser is inside) and give the greedy action, the distribution's parameters
and the value; recurrent ones also take and give their state. Evaluate first:
what `gala eval RUN` found of the same checkpoint is on the card.

push=USER/NAME (extra hub) commits model.safetensors and the card, README.md, to
that repository, which is made if it is not there, public unless private=true.
It asks for nothing: `hf auth login` or HF_TOKEN goes first. If either file is
there already, overwrite=true commits on top of it. The card names no license:
add one on the page. gala.load("hf://USER/NAME") makes an agent of it. No file
is written here, unless out=FILE says where."""
_TORCHSCRIPT = "format=torchscript: torch has deprecated TorchScript (jit.trace, jit.save); use format=torch-export"


@dataclass(frozen=True)
class Options:
    """What ``gala export`` accepts."""

    out: str = ""
    """Empty: the name of the run, beside where one stands, with the ending of the format."""
    format: Literal["auto", "safetensors", "onnx", "torch-export"] = "auto"
    """auto: what the ending of ``out`` says, safetensors without one."""
    checkpoint: str = "latest"
    learner: str = "consensus"
    push: str = ""
    """USER/NAME on the Hugging Face Hub; empty: nothing leaves this machine."""
    private: bool = False
    overwrite: bool = False
    trust: bool = False
    """Import the code that the run names, whoever has made it."""


def main(argv: Sequence[str]) -> int:
    """``RUN`` and the settings of ``Options``. Returns 0."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    if "format=torchscript" in argv:
        raise ValueError(_TORCHSCRIPT)
    options = parse_options(Options, argv[1:])
    run_dir = RunDir.open(argv[0])
    check_run(run_dir, options.trust, "export", argv)
    from gala.evaluation.evaluate import check_request, named_learner
    from gala.evaluation.export import GRAPHS, check_format, export_graph, export_weights
    from gala.evaluation.weights import check_new_file

    learner = named_learner(options.learner)
    check_request(run_dir, options.checkpoint, learner)
    endings = {"safetensors": ".safetensors"} | {name: graph[1] for name, graph in GRAPHS.items()}
    by_ending = {ending: name for name, ending in endings.items()}
    named = by_ending.get(Path(options.out).suffix, "safetensors")
    chosen = named if options.format == "auto" else options.format
    _check_push(options, chosen)
    path = Path(options.out or f"{run_dir.path.resolve().name}{endings[chosen]}")
    if path.suffix != endings[chosen]:
        known = ", ".join(f"{ending} for {name}" for name, ending in endings.items())
        raise ValueError(f"out={path} must end as its format does: {known} (here format={chosen})")
    if options.out or not options.push:
        check_new_file(path, options.overwrite, "overwrite=true")
    if options.push:
        print(_push(run_dir, options, learner))
    elif chosen == "safetensors":
        export_weights(run_dir, options.checkpoint, learner, path)
    else:
        check_format(chosen)
        export_graph(run_dir, options.checkpoint, learner, chosen, path)
    if options.out or not options.push:
        print(path)
    return 0


def _check_push(options: Options, chosen: str) -> None:
    from gala.evaluation.hub import check_hub

    if options.push:
        check_hub(options.push, f"push={options.push}")
        if chosen != "safetensors":
            raise ValueError(f"push={options.push} is for format=safetensors, which gala.load reads")
    elif options.private:
        raise ValueError("private=true is for push=USER/NAME")


def _push(run_dir: RunDir, options: Options, learner: int | str) -> str:
    """The address of the commit. The file goes where ``out`` says, or is gone afterwards."""
    from gala.evaluation import hub
    from gala.evaluation.export import export_weights

    parent = hub.check_push(options.push, options.private, options.overwrite)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.out or Path(folder) / hub.FILE)
        card = export_weights(run_dir, options.checkpoint, learner, path, f"{hub.PREFIX}{options.push}")
        return hub.push(options.push, path, card, private=options.private, parent=parent)
