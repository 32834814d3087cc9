"""SAM 2.1 and EdgeTAM over Hugging Face folders (arXiv 2408.00714, 2501.07256), pictures only.

The picture is stretched to the model's square. The decoder also reads two finer feature maps.
"""

from __future__ import annotations

import importlib
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.folder import open_model, read_settings
from adapters.segmenter import Embedding, PromptableSegmenter
from adapters.vision import Normalisation
from adapters.weights import Source
from qformer.contracts import Capabilities, CheckpointError

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")


class Sam2Segmenter(PromptableSegmenter):
    """A Sam2Model; published folders hold the video model, of which it is the picture's half."""

    family = "sam2"
    kinds: tuple[str, ...] = ("sam2", "sam2_video")  # model_types
    architecture = "Sam2Model"
    capabilities = Capabilities(resize="stretched", licence="Apache-2.0")
    pads = False
    usual = IMAGENET  # where the folder does not say

    def __init__(self, model: Any, normalisation: Normalisation) -> None:
        # Not from model.config, which of a video model's folder is the outer one.
        super().__init__(model, model.prompt_encoder.input_image_size, normalisation)
        self.freeze()
        self.positions: Tensor
        with torch.no_grad():  # the same for every picture and click
            positions = model.get_image_wide_positional_embeddings()
        self.register_buffer("positions", positions, persistent=False)

    @classmethod
    def open(
        cls, source: Source, dtype: torch.dtype = torch.float32, revision: str | None = None
    ) -> Self:
        model_type = read_settings(source, "config.json", revision).get("model_type")
        if model_type not in cls.kinds:
            raise CheckpointError(
                f"{source} is a {model_type!r} model, not {cls.kinds[0]!r}: choose another"
            )
        model = open_model(source, dtype, revision, cls.architecture)
        return cls(model, cls.normalisation(source, revision))

    @classmethod
    def normalisation(cls, source: Source, revision: str | None = None) -> Normalisation:
        """What the folder says; the processors that wrote it may not be importable here."""
        try:
            return Normalisation.open(source, revision)
        except CheckpointError:
            return cls.usual

    @property
    def low_size(self) -> int:
        return 4 * self.positions.shape[-1]

    def resize(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Bilinear with a filter against aliasing, on floats, as the release's transforms."""
        values = image.to(self.mean.device).permute(2, 0, 1).float()[None] / 255
        return F.interpolate(values, size, mode="bilinear", antialias=True)[0]

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.get_image_embeddings(pixel_values))

    def decode(
        self,
        embedding: Embedding,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        logits: Tensor | None = None,
        several: bool = True,
    ) -> tuple[Tensor, Tensor]:
        *fine, coarse = embedding.features[:3]
        if points is None and boxes is None:  # the release pads with a point that is none
            points, labels = coarse.new_zeros(1, 1, 2), -torch.ones(1, 1, dtype=torch.int32)
        sparse, dense = self.model.prompt_encoder(
            input_points=None if points is None else points[None],
            input_labels=None if labels is None else labels[None].to(coarse.device),
            input_boxes=None if boxes is None else boxes[None],
            input_masks=None if logits is None else logits[None],
        )
        found = self.model.mask_decoder(
            image_embeddings=coarse,
            image_positional_embeddings=self.positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
            high_resolution_features=fine,
        )
        return found[0][0], found[1][0]


class EdgeTamSegmenter(Sam2Segmenter):
    """EdgeTAM: SAM 2 with a small RepViT for an encoder, which transformers takes from timm."""

    family = "edgetam"
    kinds = ("edgetam", "edgetam_video")
    architecture = "EdgeTamModel"

    @classmethod
    def open(
        cls, source: Source, dtype: torch.dtype = torch.float32, revision: str | None = None
    ) -> Self:
        require_timm()
        return super().open(source, dtype, revision)


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
