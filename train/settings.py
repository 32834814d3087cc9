"""Settings of one run of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from qformer.contracts import LoupeError

TRACKERS = ("trackio", "wandb", "tensorboard")


@dataclass(frozen=True)
class LoopConfig:
    """steps: optimizer steps; batch: pictures of each process in each of `accumulation` parts of a
    step; lr: peak rate, after `warmup` steps, then cosine to lr * floor; restart: the step at which
    a second round begins, with new optimizers and half the peak, 0 for none; optimizer: "muon" for
    the matrices inside blocks, at `muon` times the rate; layer_decay: times the rate, each layer
    further from the top (adamw); ema: decay of the average that is evaluated and kept, 0 for none;
    bf16: autocast on the forward pass, by default where the processor has units for it (elsewhere
    it is slower than float32); checkpointing: the language model's activations are computed again,
    not kept; prefetch: the next batch is made meanwhile, in a thread; save_every, log_every and
    evaluate_every (0: never): steps; patience: evaluations without a better one before it stops, 0
    for all steps; best: the score of an evaluation by which the best is chosen, with `patience`
    ("loss", "right", in stage 1 "score", "itc", "itm", "itg"), by default "right", of which there
    is little in free text: there "loss"; most_skipped: steps in a row that may come out as NaN;
    trackers: where the log goes besides log.jsonl."""

    steps: int
    batch: int
    accumulation: int = 1
    lr: float = 2e-3
    warmup: int = 100
    restart: int = 0
    optimizer: Literal["adamw", "muon"] = "adamw"
    muon: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    layer_decay: float = 1.0
    floor: float = 0.02
    weight_decay: float = 0.02
    clip: float = 1.0
    ema: float = 0.0
    seed: int = 0
    bf16: bool | None = None
    checkpointing: bool = False
    log_every: int = 50
    save_every: int = 400
    evaluate_every: int = 0
    patience: int = 0
    best: Literal["", "loss", "right", "score", "itc", "itm", "itg"] = ""
    most_skipped: int = 10
    prefetch: bool = False
    trackers: tuple[str, ...] = ()

    def __post_init__(self):
        if self.steps < 1 or self.batch < 1 or self.accumulation < 1:
            raise LoupeError(
                f"steps={self.steps}, batch={self.batch} and accumulation={self.accumulation} "
                "must be at least 1"
            )
        if self.lr <= 0:
            raise LoupeError(f"lr={self.lr} must be above 0")
        if not 0 <= self.restart < self.steps:
            raise LoupeError(f"restart={self.restart} must lie before the last of {self.steps}")
        for name, least, most in (
            ("ema", 0, 1),
            ("floor", 0, 1.0001),
            ("layer_decay", 1e-6, 1.0001),
        ):
            if not least <= getattr(self, name) < most:
                raise LoupeError(f"{name}={getattr(self, name)} must lie between 0 and 1")
        if min(self.log_every, self.save_every) < 1:
            raise LoupeError("log_every and save_every must be at least 1")
        for name in self.trackers:
            if name not in TRACKERS:
                raise LoupeError(f"trackers={name!r}: choose among {', '.join(TRACKERS)}")

    @property
    def autocast(self) -> bool:
        if self.bf16 is not None:
            return self.bf16
        return torch.cuda.is_available() or torch.cpu._is_amx_tile_supported()
