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
        # What accelerate keeps elsewhere until it is used is on the meta device meanwhile.
        devices = (parameter.device for parameter in self.parameters())
        return next((one for one in devices if one.type != "meta"), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        # Quantised weights are stored as bytes; what computes beside them tells the dtype.
        return next(one.dtype for one in self.parameters() if one.is_floating_point())
