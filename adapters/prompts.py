"""Prompts as a segmenter's decoder reads them: several at once, in pixels of its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from qformer.contracts import SegmentPrompt


@dataclass(frozen=True)
class Prompts:
    """n prompts. several: three masks for each, which may be a part, the object and the whole."""

    points: Tensor | None = None  # (n, k, 2) x, y
    labels: Tensor | None = None  # (n, k) 1 adds, 0 excludes, -1 is no point
    boxes: Tensor | None = None  # (n, 4) x0, y0, x1, y1
    logits: Tensor | None = None  # (n, h, w) of earlier answers
    several: bool = True

    @classmethod
    def of(
        cls,
        prompt: SegmentPrompt,
        scale: tuple[float, float],
        device: torch.device,
        dtype: torch.dtype,
        several: bool,
    ) -> Self:
        """One prompt in pixels of the picture. scale: of x and y, from picture to input."""
        factors = torch.tensor(scale, device=device)
        points = labels = boxes = logits = None
        if prompt.points:
            given = torch.tensor(prompt.points, dtype=torch.float32, device=device)
            points, labels = (given[:, :2] * factors)[None], given[None, :, 2].long()
        if prompt.box is not None:
            box = torch.tensor(prompt.box, dtype=torch.float32, device=device)
            boxes = (box * factors.repeat(2))[None]
        if prompt.logits is not None:
            logits = prompt.logits[None].to(device, dtype)
        return cls(points, labels, boxes, logits, several)

    @property
    def apart(self) -> bool:
        """Whether each prompt needs its own copy of the picture: earlier logits are added to it."""
        return self.logits is not None and len(self.logits) > 1

    def for_transformers(self) -> dict[str, Tensor | None]:
        """What the prompt encoders there take, (pictures, prompts, ...): one picture, or one a
        prompt where they are `apart`."""
        given = {
            "input_points": self.points,
            "input_labels": self.labels,
            "input_boxes": self.boxes,
            "input_masks": self.logits,
        }
        axis = 1 if self.apart else 0
        return {name: None if one is None else one.unsqueeze(axis) for name, one in given.items()}
