"""SAM 2.1 and EdgeTAM over Hugging Face folders (arXiv 2408.00714, 2501.07256), pictures only.

The picture is stretched to the model's square. The decoder also reads two finer feature maps.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.prompts import Prompts
from adapters.segmenter import Embedding
from adapters.segmenter_folder import FolderSegmenter
from adapters.source import Source
from qformer.contracts import Capabilities, CheckpointError
from qformer.proposals import Everything


class Sam2Segmenter(FolderSegmenter):
    """A Sam2Model; published folders hold the video model, of which it is the picture's half."""

    family = "sam2"
    kinds = ("sam2", "sam2_video")
    architecture = "Sam2Model"
    capabilities = Capabilities(resize="stretched", licence="Apache-2.0")
    pads = False
    usual = Everything(  # as released
        pred_iou_thresh=0.8, stability_score_thresh=0.95, stability_score_offset=1.0
    )

    def resize(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Bilinear with a filter against aliasing, on floats, as the release's transforms."""
        values = image.to(self.mean.device).permute(2, 0, 1).float()[None] / 255
        return F.interpolate(values, size, mode="bilinear", antialias=True)[0]

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.get_image_embeddings(pixel_values))

    def read(self, embedding: Embedding) -> dict[str, Any]:
        *fine, coarse = embedding.features[:3]
        return {"image_embeddings": coarse, "high_resolution_features": fine}

    def decode(self, embedding: Embedding, prompts: Prompts) -> tuple[Tensor, Tensor]:
        if prompts.points is None and prompts.boxes is None:  # it wants one point, of no kind
            count = 1 if prompts.logits is None else len(prompts.logits)
            nowhere = self.positions.new_zeros(count, 1, 2)
            none = torch.full((count, 1), -1, dtype=torch.int32, device=nowhere.device)
            prompts = replace(prompts, points=nowhere, labels=none)
        return super().decode(embedding, prompts)


class EdgeTamSegmenter(Sam2Segmenter):
    """EdgeTAM: SAM 2 with a small RepViT for an encoder, which transformers takes from timm."""

    family = "edgetam"
    kinds = ("edgetam", "edgetam_video")
    architecture = "EdgeTamModel"

    @classmethod
    def open(cls, source: Source, dtype: torch.dtype = torch.float32) -> Self:
        require_timm()
        return super().open(source, dtype)


def require_timm() -> None:
    """Raises CheckpointError that says what is missing. timm itself imports torchvision."""
    try:
        importlib.import_module("timm")
    except Exception as error:  # a torchvision of another build fails in many ways
        missing = getattr(error, "name", None) or "timm"
        raise CheckpointError(
            f"EdgeTAM's encoder comes from timm, and {missing} cannot be imported here"
            f" ({type(error).__name__}): pip install timm, with the torchvision that belongs to"
            " this torch, or choose mobilesam, which is as small"
        ) from None
