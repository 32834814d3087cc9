"""Frozen means gradients and mode: no parameter learns, dropout never wakes."""

from __future__ import annotations

from typing import Self

import torch
from torch import nn


class Frozen(nn.Module):
    """Base of every foreign part. Call `freeze()` at the end of `__init__`."""

    def freeze(self) -> Self:
        self.requires_grad_(False)
        return self.train(False)

    def train(self, mode: bool = True) -> Self:
        # A parent's .train() reaches every child; a frozen part stays in evaluation mode.
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
