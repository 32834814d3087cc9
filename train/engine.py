"""What the loop runs on: accelerate's devices and processes, signals, memory."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from qformer.contracts import LoupeError
from train.settings import LoopConfig


def accelerator_of(config: LoopConfig, folder: Path):
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.utils import ProjectConfiguration

    for name in config.trackers:
        try:
            __import__(name if name != "tensorboard" else "torch.utils.tensorboard")
        except ModuleNotFoundError:
            raise LoupeError(f"trackers={name!r} is not installed: pip install {name}") from None
    accelerator = Accelerator(
        mixed_precision="bf16" if config.autocast else "no",
        # not every row of a batch uses every part: no region, no question, no text
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        log_with=list(config.trackers) or None,
        project_config=ProjectConfiguration(str(folder), logging_dir=str(folder)),
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and accelerator.num_processes == 1:
        raise LoupeError(
            f"{started} processes were started and do not know of each other, so that each would "
            "train alone in the same folder: on a CPU set ACCELERATE_USE_CPU=true and use torchrun"
        )
    if config.trackers:
        accelerator.init_trackers("loupe", {"steps": config.steps, "lr": config.lr})
    return accelerator


@contextmanager
def interrupts(handler: Callable[..., None]):
    """Ctrl-C and a polite kill call `handler` instead, where this thread may catch them."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(kind, handler) for kind in kinds]
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for kind, old in zip(kinds, before, strict=True):
            signal.signal(kind, old)


@dataclass(frozen=True)
class Share:
    """What one process of `world` evaluates: of all batches the `rank`-th, and every world-th after
    it. total: numbers of this process -> their sums over all."""

    rank: int = 0
    world: int = 1
    total: Callable[[list[float]], list[float]] = list


def share_of(accelerator) -> Share:
    def total(numbers: list[float]) -> list[float]:
        return accelerator.reduce(torch.tensor(numbers, device=accelerator.device), "sum").tolist()

    return Share(accelerator.process_index, accelerator.num_processes, total)


def trained_quietly(device: torch.device):
    """Choose plain attention on a CPU, where the fused backward pass costs several times it."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def memory_used(device: torch.device) -> float:
    """The most this process has held, in GB: of the device's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e9 if sys.platform == "darwin" else 1e6)
