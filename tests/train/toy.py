"""A stage that takes milliseconds; run as a program, it is killed in the middle of its training."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from train.loop import LoopConfig, fit

CONFIG = LoopConfig(
    steps=30, batch=4, lr=1e-2, warmup=5, optimizer="muon", log_every=10, save_every=8
)


class Toy:
    """Draws from both generators, has a matrix for each optimizer, and dropout."""

    def __init__(self, width=6, die_at=None):
        torch.manual_seed(0)
        self.module = nn.ModuleDict(
            {
                "embedding": nn.Embedding(8, width),
                "inner": nn.Sequential(
                    nn.Linear(width, width), nn.Dropout(0.2), nn.LayerNorm(width)
                ),
                "frozen": nn.Linear(width, 1).requires_grad_(False),
            }
        )
        self.die_at, self.seen = die_at, []

    def batch(self, rng, progress, place=0):
        self.seen.append(progress)
        if len(self.seen) == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.from_numpy(rng.integers(0, 8, 16))

    def losses(self, batch):
        out = self.module["frozen"](self.module["inner"](self.module["embedding"](batch)))[:, 0]
        return {"fit": (out - batch).square().mean(), "size": 0.1 * out.square().mean()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit(Toy(die_at=22), CONFIG, Path(sys.argv[1]))
