"""``gala doctor``: cores, memory, GPUs, simulators, extras and energy counters that a run here can use."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from importlib import metadata

from gala.config.extras import install

EXTRAS = {
    "atari": ("ale_py", "ale-py"),
    "mujoco": ("mujoco", "mujoco"),
    "minatar": ("minatar", "MinAtar"),
    "envpool": ("envpool", "envpool"),
    "video": ("imageio_ffmpeg", "imageio-ffmpeg"),
    "plot": ("matplotlib", "matplotlib"),
    "diagnose": ("scipy", "scipy"),
    "sweep": ("optuna", "optuna"),
    "supervised": ("sklearn", "scikit-learn"),
    "track": ("wandb", "wandb"),
    "export": ("onnx", "onnx"),
    "hub": ("huggingface_hub", "huggingface-hub"),
    "cluster": ("ray", "ray"),
}
"""Extra of the distribution -> (import name, package name)."""


def main(argv: Sequence[str]) -> int:
    """Prints one line per fact. Returns 0: what is missing is optional. Raises ValueError if there are words."""
    if "--help" in argv or "-h" in argv:
        print("usage: gala doctor\n\nShow what this machine and this installation offer to a run.")
        return 0
    if argv:
        raise ValueError(f"{argv[0]!r}: gala doctor takes no words")
    for name, text in report():
        print(f"{name:<10} {text}")
    return 0


def report() -> Iterator[tuple[str, str]]:
    """(subject, finding) pairs."""
    import psutil
    import torch

    from gala import __version__
    from gala.processes.resources import available_cores, mps_serves

    memory = psutil.virtual_memory()
    yield "gala", __version__
    yield "cores", f"{available_cores()} usable of {os.cpu_count()} (affinity and cgroup quota)"
    threads = os.environ.get("OMP_NUM_THREADS")
    yield "threads", f"torch {torch.get_num_threads()}, OMP_NUM_THREADS {threads or 'not set'}"
    yield "memory", f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f} GiB"
    yield "torch", f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute {gpu.major}.{gpu.minor}"
    if torch.cuda.device_count():
        yield "mps", "runs" if mps_serves() else "not found: learners that share a GPU take turns on it"
    else:
        yield (
            "cuda",
            f"no GPU; torch built {'for CUDA ' + torch.version.cuda if torch.version.cuda else 'without CUDA'}",
        )
    yield "gymnasium", metadata.version("gymnasium")
    for extra, (module, package) in EXTRAS.items():
        found = importlib.util.find_spec(module) is not None
        yield extra, f"{package} {metadata.version(package)}" if found else f"missing: {install(extra)}"
    yield "rapl", _rapl()
    yield "nvml", _nvml()


def _rapl() -> str:
    from gala.bench.energy import cpu_counter_files

    counters = cpu_counter_files()
    if not counters:
        return "no CPU energy counter here (usual in virtual machines)"
    readable = [c for c in counters if os.access(c, os.R_OK)]
    return f"{len(readable)} of {len(counters)} CPU energy counters readable" + ("" if readable else " (root only)")


def _nvml() -> str:
    if importlib.util.find_spec("pynvml") is None:
        return "not installed: pip install nvidia-ml-py (GPU energy)"
    import pynvml

    try:
        pynvml.nvmlInit()
        return f"{pynvml.nvmlDeviceGetCount()} GPU(s) with power and energy counters"
    except pynvml.NVMLError as error:
        return f"no GPU energy counter: {error}"
