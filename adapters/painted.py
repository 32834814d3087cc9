"""Is a picture a painted scene? What the paintings' model itself would call familiar: its own small
vision encoder and the Gaussian beside it, opened without the rest of that model."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from adapters.build import open_part
from adapters.checkpoint import WEIGHTS, load_config, verify
from adapters.defaults import PAINTINGS, folder_of
from adapters.registry import VISION_ENCODERS
from qformer.familiarity import Familiarity

OF = "familiarity."  # how the names of its weights begin in a checkpoint


@cache
def _painter() -> tuple[Any, Familiarity]:
    folder = folder_of(PAINTINGS)
    verify(folder)
    vision = open_part(folder, VISION_ENCODERS, load_config(folder).vision, torch.float32)
    familiarity = Familiarity(vision.width)
    with safe_open(folder / WEIGHTS, "pt") as held:
        names = [name for name in held.keys() if name.startswith(OF)]  # noqa: SIM118
        familiarity.load_state_dict({n.removeprefix(OF): held.get_tensor(n) for n in names})
    return vision, familiarity


@torch.no_grad()
def is_painted(image: Tensor) -> bool:
    """image: uint8 (height, width, 3). 0.1 s and 4 MB, the first time 0.3 s more; how often it is
    right stands in docs/chat.md. Raises CheckpointError."""
    vision, familiarity = _painter()
    return bool(familiarity.distance(vision.encode(vision.preprocess(image)[None])) <= 1)
