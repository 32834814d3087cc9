"""A segmenter's decoder learns as SAM's did (arXiv 2304.02643, appendix A).

The masks of a picture are first asked for by clicks or by loose boxes, then corrected by clicks
where the answer was wrong, the logits fed back; focal and dice 20:1, the predicted IoU by squared
error, of an ambiguous click the best mask alone. The image encoder stays as it is, so a picture
that is always seen the same way is encoded once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.prompts import Prompts
from adapters.segmenter import Embedding
from adapters.segmenters import save_segmenter
from qformer.contracts import LoupeError
from train.embedded.segmenter import click_inside, click_losses, correcting_clicks, loose_box
from train.engine import Share
from train.loop import LoopConfig
from train.segmenter.data import SMALLEST, Pictured, Views
from train.segmenter.score import measure

KEPT = 64  # encoded pictures
FROZEN = ("model.vision_enc", "model.image_enc", "model.trunk")


@dataclass(frozen=True)
class TuneConfig:
    """loop.batch: pictures a step, each with up to `masks` masks, corrected up to `rounds` times.
    augment: no view of a picture is like another."""

    loop: LoopConfig
    masks: int = 4
    rounds: int = 3
    augment: bool = False

    def __post_init__(self) -> None:
        if self.masks < 1 or self.rounds < 0:
            raise LoupeError(f"masks={self.masks} must be above 0, rounds={self.rounds} not below")


class TuneStage:
    """A stage of train/loop.py. held: pictures to measure on."""

    def __init__(
        self,
        segmenter: Any,
        data: list[Pictured],
        config: TuneConfig,
        held: Sequence[Pictured] = (),
    ) -> None:
        self.module, self.config, self.held = segmenter, config, held
        self.views = Views(data, config.masks, config.augment)
        self.side = segmenter.low_size
        self._kept: OrderedDict[Path, Embedding] = OrderedDict()
        for name, parameter in segmenter.named_parameters():
            parameter.requires_grad_(not name.startswith(FROZEN))

    @torch.no_grad()
    def look(self, pixels: Tensor) -> Embedding:
        """What the frozen encoder says of a picture (H, W, 3), the neck's part still to come. In
        bfloat16 where the processor has units for it: three times as fast, and off by less than
        another view would be."""
        module = self.module
        values, scaled = module.preprocess(pixels.to(module.device))
        fast = module.device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        with torch.autocast(module.device.type, torch.bfloat16, enabled=fast):
            features = module.features(values[None].to(module.dtype))
        features = tuple(one.to(module.dtype) for one in features)
        return Embedding(features, (pixels.shape[0], pixels.shape[1]), scaled, "", "")

    def encode(self, file: Path, pixels: np.ndarray) -> Embedding:
        """A picture's features; of those used last from memory, if they are always the same."""
        if self.config.augment:
            return self.look(torch.from_numpy(pixels))
        if file not in self._kept:
            self._kept[file] = self.look(torch.from_numpy(pixels))
        self._kept.move_to_end(file)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[file]

    def goal(self, region_mask: np.ndarray, embedding: Embedding) -> Tensor:
        """The mask in the decoder's frame, bool (side, side): as the picture lies in the input."""
        shares = [kept / self.module.input_size for kept in embedding.scaled_size]
        rows, columns = (max(1, round(share * self.side)) for share in shares)
        values = torch.from_numpy(np.ascontiguousarray(region_mask)).float()
        small = F.adaptive_avg_pool2d(values[None], (rows, columns))[0] >= 0.5
        return F.pad(small, (0, self.side - columns, 0, self.side - rows))

    def batch(
        self, rng: np.random.Generator, progress: float = 1.0, place: int = 0
    ) -> list[dict[str, Any]]:
        """A row a picture: all its masks are asked for by clicks, or all by boxes."""
        rows: list[dict[str, Any]] = []
        for _ in range(50 * self.config.loop.batch):
            file, pixels, masks = self.views.draw(rng)
            embedding = self.encode(file, pixels)
            goals = [self.goal(mask, embedding) for mask in masks]
            goals = [goal for goal in goals if goal.sum() >= SMALLEST]
            if not goals:
                continue
            row: dict[str, Any] = {"embedding": embedding, "goals": torch.stack(goals)}
            ask = loose_box if rng.random() < 0.4 else click_inside
            row["asked"] = torch.tensor([ask(goal.numpy(), rng) for goal in goals])
            row["rounds"] = int(rng.integers(self.config.rounds + 1))
            rows.append(row)
            if len(rows) == self.config.loop.batch:
                return rows
        raise LoupeError("no mask of the data set can be learned from: all are too small or broken")

    def losses(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Means over the batch: masks, and iou, of the first answer and of the corrected ones."""
        sums: dict[str, list[Tensor]] = {}
        for row in batch:
            for round_, (loss, misfit) in enumerate(self.interact(row)):
                kind = "first" if round_ == 0 else "corrected"
                sums.setdefault(kind, []).append(loss)
                sums.setdefault(f"{kind}_iou", []).append(misfit)
        return {name: torch.stack(values).mean() for name, values in sums.items()}

    def interact(self, row: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Losses of the answers and of their corrections, all masks of a picture side by side."""
        device, seen = self.module.device, row["embedding"]
        seen = Embedding(self.module.merge(seen.features), seen.size, seen.scaled_size, "", "")
        goals, asked = row["goals"].to(device), row["asked"].to(device)
        boxes = asked if asked.shape[1] == 4 else None
        clicks = asked.new_zeros(len(asked), 0, 3)  # x, y, label
        if boxes is None:
            clicks = torch.cat([asked, torch.ones_like(asked[:, :1])], 1)[:, None]
        logits, told = None, []
        for _ in range(1 + row["rounds"]):
            found, scores = self.ask(seen, clicks, boxes, logits)
            loss, misfit, chosen = click_losses(found[None], scores[None], goals[None])
            told.append((loss, misfit))
            place, label = correcting_clicks(chosen, goals[None])
            new = torch.cat([place[0].to(clicks), label[0, :, None].to(clicks)], 1)
            clicks = torch.cat([clicks, new[:, None]], 1)
            if self.module.capabilities.logits:
                logits = chosen[0]
            most = self.module.capabilities.max_points
            if most is not None and clicks.shape[1] + 2 * (boxes is not None) > most:
                break
        return told

    def ask(
        self, seen: Embedding, clicks: Tensor, boxes: Tensor | None, logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Prompts in the decoder's frame, clicks (n, k, 3) -> logits (n, m, side, side), (n, m)."""
        scale = self.module.input_size / self.side
        prompts = Prompts(
            clicks[..., :2] * scale if clicks.shape[1] else None,
            clicks[..., 2].long() if clicks.shape[1] else None,
            None if boxes is None else boxes * scale,
            logits,
            several=clicks.shape[1] == 1 and boxes is None and logits is None,
        )
        found, scores = self.module.decode(seen, prompts)
        return found.float(), scores.float()

    def evaluate(self, share: Share) -> dict[str, float]:
        return measure(self.module, self.held)

    def keep(self, folder: Path) -> None:
        save_segmenter(self.module, folder)
