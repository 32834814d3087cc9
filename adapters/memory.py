"""How much memory weights take, and what would fit where they do not."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from qformer.contracts import CheckpointError

Quantize = Literal["int8", "nf4"]
Shapes = Mapping[str, tuple[int, ...]]  # name of a weight -> its shape
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Bytes a weight of a quantised linear layer takes, and each of its rows: int8 has a float32 scale
# for every row, nf4 one for every 64 weights.
QUANTIZED: dict[Quantize, tuple[float, int]] = {"int8": (1.0, 4), "nf4": (0.5 + 4 / 64, 0)}
# Words in the names of a language model's matrices that are tables or are left as they are.
UNQUANTIZED = re.compile(r"embed|shared|lm_head|wte|wpe|relative_attention_bias")
FROZEN = ("vision_model.embeddings.", "vision_model.encoder.", "language_model.")
SPARE = 0.08  # of the weights, for what is computed with them
# What a model may be held in, largest first: dtype of the frozen parts, and of the language model's
# linear layers; and the options that ask for it.
PRECISIONS: dict[str, tuple[torch.dtype, Quantize | None]] = {
    "fp32": (torch.float32, None),
    "bf16": (torch.bfloat16, None),
    "int8": (torch.bfloat16, "int8"),
    "nf4": (torch.bfloat16, "nf4"),
}
OPTIONS = {
    "bf16": "--dtype bf16",
    "int8": "--dtype bf16 --quantize int8",
    "nf4": "--dtype bf16 --quantize nf4",
}
CGROUP = Path("/sys/fs/cgroup")
RAN_OUT = re.compile(r"can't allocate memory|CUDA error: out of memory|MPS backend out of memory")


@dataclass(frozen=True)
class Placement:
    """Where and how frozen weights are held.

    device: what they are meant for. quantize: of the language model's linear layers, by
    bitsandbytes. device_map: "auto" spreads the language model over all GPUs, then the CPU.
    """

    device: str = "cpu"
    quantize: Quantize | None = None
    device_map: Literal["auto"] | None = None


@dataclass(frozen=True)
class Count:
    """A whole model's parameters, by what becomes of them: the bridge's stay in float32, the frozen
    parts get the dtype asked for, and `linear` of those, in matrices of `rows` rows in all, are
    what `quantize` makes smaller."""

    bridge: int = 0
    frozen: int = 0
    linear: int = 0
    rows: int = 0

    @classmethod
    def of(cls, shapes: Shapes) -> Count:
        """shapes: by the names of a whole model of Hugging Face."""
        bridge = frozen = linear = rows = 0
        for name, shape in shapes.items():
            count = torch.Size(shape).numel()
            if not name.startswith(FROZEN):
                bridge += count
                continue
            frozen += count
            if len(shape) == 2 and is_quantized(name):
                linear += count
                rows += shape[0]
        return cls(bridge, frozen, linear, rows)

    @property
    def parameters(self) -> int:
        return self.bridge + self.frozen

    def bytes(self, dtype: torch.dtype, quantize: Quantize | None = None) -> int:
        """What they take."""
        size = 4 * self.bridge + dtype.itemsize * self.frozen
        if quantize is None:
            return size
        weight, row = QUANTIZED[quantize]
        return round(size + (weight - dtype.itemsize) * self.linear + row * self.rows)

    def needed(self, dtype: torch.dtype, quantize: Quantize | None = None) -> int:
        """What must be free for them, and for what is computed with them."""
        return round((1 + SPARE) * self.bytes(dtype, quantize))


def is_quantized(name: str) -> bool:
    """Whether a matrix of a whole model, by its name, is one that `quantize` makes smaller."""
    return name.startswith("language_model.") and not UNQUANTIZED.search(name)


def check(
    source: object,
    count: Count,
    dtype: torch.dtype,
    placement: Placement,
    offered: Mapping[str, str] = OPTIONS,
) -> None:
    """Raises CheckpointError, saying what would fit, where a model does not fit into memory.

    offered: the smaller PRECISIONS there are, and how they are asked for.
    """
    free = None if placement.device_map else available(placement.device)
    needed = count.needed(dtype, placement.quantize)
    if free is None or needed <= free:
        return
    here = "memory" if placement.device == "cpu" else f"memory of {placement.device}"
    sizes = {how: count.needed(*PRECISIONS[name]) for name, how in offered.items()}
    fits = [f"{how} ({gigabytes(size)})" for how, size in sizes.items() if size <= free]
    advice = f"these would fit: {', '.join(fits)}" if fits else "choose a smaller model"
    raise CheckpointError(
        f"{source} needs {gigabytes(needed)} in {placement.quantize or NAMES[dtype]} and"
        f" {gigabytes(free)} of {here} are free: {advice}"
    )


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def ran_out(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the CPU or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(RAN_OUT.search(str(error)))


def available(device: str) -> int | None:
    """Free bytes; None where nothing tells."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] if torch.cuda.is_available() else None
    try:
        told = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        free = int(told[1]) * 1024 if told else None
    except OSError:
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None
    try:  # a container's own limit; files it read lie in its share until the room is wanted
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        kept = re.search(r"^inactive_file (\d+)$", (CGROUP / "memory.stat").read_text(), re.M)
        room = limit - used + (int(kept[1]) if kept else 0)
        return room if free is None else min(free, room)
    except (OSError, ValueError):
        return free
