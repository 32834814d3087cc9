"""Does a picture look like those the bridge was trained on?

A bridge answers about any picture, also where it can only guess. What the frozen encoder says of
training pictures, each the mean of its tokens, is summed up as one Gaussian; a picture that lies
farther from it than nearly all training pictures is unfamiliar. (Lee et al. 2018, "A
Simple Unified Framework for Detecting Out-of-Distribution Samples", with one class.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SHRINKAGE = 0.01  # towards independent channels; a LayerNorm leaves one direction without variance


class Familiarity(nn.Module):
    """The Gaussian, as buffers: `whiten` also divides by the farthest distance that is familiar.
    Half precision is enough to store them. Before `fit` every picture is familiar."""

    mean: Tensor
    whiten: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("whiten", torch.zeros(width, width))

    def distance(self, image_embeds: Tensor) -> Tensor:
        """image_embeds (B, tokens, width) -> (B,): at most 1 for a familiar picture."""
        pictures = image_embeds.to(self.mean.dtype).mean(1)
        return ((pictures - self.mean) @ self.whiten.T).norm(dim=-1)

    @torch.no_grad()
    def fit(self, batches: Sequence[Tensor], quantile: float = 0.995) -> None:
        """Learn training pictures, image_embeds (B, tokens, width) each batch; `quantile` of them
        will be familiar. Raises ValueError for fewer pictures than channels."""
        pictures = torch.cat([batch.double().mean(1) for batch in batches])
        count, width = pictures.shape
        if count <= width:
            raise ValueError(f"{count} pictures cannot tell {width} channels: give more")
        mean = pictures.mean(0)
        covariance = (pictures - mean).T @ (pictures - mean) / (count - 1)
        independent = covariance.diagonal().clamp(min=1e-12).diag()
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * independent
        factor = torch.linalg.cholesky(covariance)  # factor^-1 (x - mean) has unit covariance
        self.mean.copy_(mean)
        self.whiten.copy_(torch.linalg.inv(factor))
        distances = torch.cat([self.distance(batch) for batch in batches])
        self.whiten /= distances.quantile(quantile)
