"""EfficientSAM-Ti and -S: small encoders trained to rebuild SAM's features (arXiv 2312.00863)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.efficientsam import BOTTOM_RIGHT, TOP_LEFT, EfficientSam, EfficientSamConfig
from adapters.prompts import Prompts
from adapters.release import load_strictly, read_weights, shape_of, weight_file
from adapters.segmenter import Embedding, PromptableSegmenter
from adapters.source import ModelSource, Source
from adapters.vision import IMAGENET
from qformer.config import from_dict
from qformer.contracts import Capabilities

FILES = ("model.safetensors", "efficient_sam_vitt.pt", "efficient_sam_vits.pt")
HEAD_WIDTH = 64  # of both releases' encoders


class EfficientSamSegmenter(PromptableSegmenter):
    """Six slots for points; no mask prompt; clicks that exclude were never trained."""

    family = "efficientsam"
    capabilities = Capabilities(
        negatives=False, logits=False, max_points=6, resize="stretched", licence="Apache-2.0"
    )
    pads = False
    grows = "bicubic"

    def __init__(self, model: EfficientSam) -> None:
        super().__init__(model, model.config.image_size, IMAGENET)
        self.freeze()
        self.places: Tensor
        with torch.no_grad():
            places = model.prompt_encoder.image_positions()
        self.register_buffer("places", places, persistent=False)

    @classmethod
    def open(
        cls,
        source: Source,
        dtype: torch.dtype = torch.float32,
        file: str | None = None,
    ) -> Self:
        """A release's .pt file, or a folder or hub id with one (or a model.safetensors with the
        same names); config.json only where the shape is not a release's. file:
        the one to take, where there are several."""
        source = ModelSource.of(source)
        path = weight_file(source, (file,) if file else FILES)
        weights = read_weights(path)
        model = EfficientSam(_config(source, weights))
        load_strictly(model, {name: value.float() for name, value in weights.items()}, path)
        return cls(model.to(dtype))

    @property
    def low_size(self) -> int:
        return 4 * self.model.config.grid

    def resize(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Plain bilinear, as released: no filter against aliasing."""
        values = image.to(self.mean.device).permute(2, 0, 1).float()[None] / 255
        return F.interpolate(values, size, mode="bilinear", align_corners=False)[0]

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return (self.model.image_encoder(pixel_values),)

    def decode(self, embedding: Embedding, prompts: Prompts) -> tuple[Tensor, Tensor]:
        places, kinds = [], []
        if prompts.boxes is not None:  # first, so that it is never what is cut
            places.append(prompts.boxes.unflatten(1, (2, 2)))
            corners = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=self.device)
            kinds.append(corners.expand(len(prompts.boxes), 2))
        if prompts.points is not None and prompts.labels is not None:
            places.append(prompts.points)
            kinds.append(prompts.labels)
        asked = self.model.prompt_encoder(torch.cat(places, 1), torch.cat(kinds, 1))
        found, scores = self.model.mask_decoder(embedding.features[0], self.places, asked)
        chosen = slice(1, None) if prompts.several else slice(0, 1)
        return found[:, chosen], scores[:, chosen]


def _config(source: Source, weights: dict[str, Tensor]) -> EfficientSamConfig:
    """What a config.json says, else what the weights' own shapes say of a release."""
    values = shape_of(source, "efficientsam")
    if values is not None:
        return from_dict(EfficientSamConfig, values, f"config.json of {source}")
    width = int(weights["image_encoder.pos_embed"].shape[-1]) if weights else 0
    return EfficientSamConfig(width=width, heads=max(1, width // HEAD_WIDTH))


def save_efficientsam(model: EfficientSam, folder: Path) -> None:
    """A folder that `EfficientSamSegmenter.open` reads."""
    import dataclasses

    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    held: dict[str, Any] = {"model_type": "efficientsam", **dataclasses.asdict(model.config)}
    (folder / "config.json").write_text(json.dumps(held, indent=2) + "\n")
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
