"""A new lite segmenter's neck, before anything else learns: to say of pictures what the encoder of
a SamModel says, whose decoder it has taken over.

So the decoder, which knows what a click is, reads at once something that it can read, and need not
forget it while the neck is noise. MobileSAM was made so (arXiv 2306.14289, decoupled distillation).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.segmenter.stage import TuneStage


class NeckStage:
    """A stage of train/loop.py. stage: of the segmenter whose neck learns, and its views of
    pictures. sam: a SamSegmenter of the same width."""

    def __init__(self, stage: TuneStage, sam: Any) -> None:
        self.module, self.stage, self.sam = stage.module, stage, sam
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name.startswith("model.neck."))

    @torch.no_grad()
    def batch(
        self, rng: np.random.Generator, progress: float = 1.0, place: int = 0
    ) -> list[tuple[tuple[Tensor, ...], Tensor]]:
        """The trunk's maps of each picture, and what the SAM says of it, stretched alike."""
        rows, grid = [], self.module.positions.shape[-1]
        for _ in range(self.stage.config.loop.batch):
            _, pixels, _ = self.stage.views.draw(rng)
            image = torch.from_numpy(pixels)
            values = self.sam.resize(image, (self.sam.input_size,) * 2)
            values = (values - self.sam.mean.cpu()) / self.sam.std.cpu()
            said = self.sam.features(values[None].to(self.sam.device, self.sam.dtype))[0]
            goal = F.interpolate(said, (grid, grid), mode="area")
            rows.append((self.stage.look(image).features, goal.to(self.module.device)))
        return rows

    def losses(self, batch: list[tuple[tuple[Tensor, ...], Tensor]]) -> dict[str, Tensor]:
        """The mean squared error, 1 for whoever says the mean of it all."""
        errors = [
            F.mse_loss(self.module.merge(maps)[-1], goal) / goal.var(correction=0).clamp(min=1e-6)
            for maps, goal in batch
        ]
        return {"neck": torch.stack(errors).mean()}
