"""MobileSAM: SAM with its encoder distilled into a TinyViT (arXiv 2306.14289).

The release's weights under their own names; the prompt encoder and the decoder are SAM's.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from adapters.release import load_strictly, read_weights, shape_of, weight_file
from adapters.segmenter_sam import SamSegmenter
from adapters.source import ModelSource, Source
from adapters.tinyvit import TinyVit, TinyVitConfig
from adapters.vision import IMAGENET
from qformer.config import from_dict
from qformer.contracts import Capabilities

FILES = ("model.safetensors", "mobile_sam.pt")
UNUSED = ("image_encoder.norm_head.", "image_encoder.head.")  # TinyViT's classifier

# Parts of names, as SAM's release and as transformers write them; a name holds at most one.
HEADS = [f"output_hypernetworks_mlps.{token}." for token in range(4)] + ["iou_prediction_head."]
NAMES = [
    ("prompt_encoder.point_embeddings.", "prompt_encoder.point_embed."),
    ("mask_downscaling.0.", "mask_embed.conv1."),
    ("mask_downscaling.1.", "mask_embed.layer_norm1."),
    ("mask_downscaling.3.", "mask_embed.conv2."),
    ("mask_downscaling.4.", "mask_embed.layer_norm2."),
    ("mask_downscaling.6.", "mask_embed.conv3."),
    (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "shared_image_embedding.positional_embedding",
    ),
    *((f".{layer}.norm{n}.", f".{layer}.layer_norm{n}.") for layer in "01" for n in "1234"),
    ("transformer.norm_final_attn.", "transformer.layer_norm_final_attn."),
    ("output_upscaling.0.", "upscale_conv1."),
    ("output_upscaling.1.", "upscale_layer_norm."),
    ("output_upscaling.3.", "upscale_conv2."),
    *((f"{head}layers.0.", f"{head}proj_in.") for head in HEADS),
    *((f"{head}layers.1.", f"{head}layers.0.") for head in HEADS),
    *((f"{head}layers.2.", f"{head}proj_out.") for head in HEADS),
]


def renamed(name: str, to_release: bool = False) -> str:
    """A name of SAM's release as transformers writes it, or the other way; the image encoder's
    stay."""
    if name.startswith("image_encoder."):
        return name
    for release, theirs in NAMES:
        old, new = (theirs, release) if to_release else (release, theirs)
        if old in name:
            return name.replace(old, new)
    return name


class MobileSam(nn.Module):
    """A SamModel with another encoder, as far as a segmenter asks it."""

    def __init__(self, vision: TinyVitConfig, decoder: dict[str, Any] | None = None) -> None:
        """decoder: what differs from SAM's own mask decoder, in transformers' words."""
        from transformers import SamConfig
        from transformers.models.sam.modeling_sam import (
            SamMaskDecoder,
            SamPositionalEmbedding,
            SamPromptEncoder,
        )

        super().__init__()
        grid = vision.image_size // vision.patch
        shape = {
            "hidden_size": vision.channels, "image_size": vision.image_size,
            "patch_size": vision.patch, "image_embedding_size": grid,
        }  # fmt: skip
        config = SamConfig(
            vision_config={"num_pos_feats": vision.channels // 2, "image_size": vision.image_size},
            prompt_encoder_config=shape,
            mask_decoder_config={"hidden_size": vision.channels, **(decoder or {})},
        )
        config.mask_decoder_config._attn_implementation = "sdpa"
        self.vision, self.decoder, self.grid = vision, decoder or {}, grid
        self.image_encoder = TinyVit(vision)
        self.shared_image_embedding = SamPositionalEmbedding(config.vision_config)
        self.prompt_encoder = SamPromptEncoder(config)
        self.prompt_encoder.shared_embedding = self.shared_image_embedding  # one matrix for both
        self.mask_decoder = SamMaskDecoder(config.mask_decoder_config)

    def get_image_embeddings(self, pixel_values: Tensor) -> Tensor:
        return self.image_encoder(pixel_values)

    def get_image_wide_positional_embeddings(self) -> Tensor:
        """(1, channels, grid, grid)."""
        matrix = self.shared_image_embedding.positional_embedding
        middle = torch.arange(self.grid, device=matrix.device, dtype=matrix.dtype) + 0.5
        y, x = torch.meshgrid(middle / self.grid, middle / self.grid, indexing="ij")
        return self.shared_image_embedding(torch.stack([x, y], -1)).permute(2, 0, 1)[None]


class MobileSamSegmenter(SamSegmenter):
    family = "mobilesam"
    capabilities = Capabilities(licence="Apache-2.0")

    @classmethod
    def open(
        cls,
        source: Source,
        dtype: torch.dtype = torch.float32,
        file: str | None = None,
    ) -> Self:
        """mobile_sam.pt, or a folder or hub id with it (or a model.safetensors with the same
        names); config.json only where the shape is not the release's."""
        source = ModelSource.of(source)
        path = weight_file(source, (file,) if file else FILES)
        held = {n: v for n, v in read_weights(path).items() if not n.startswith(UNUSED)}
        weights = {renamed(name): value for name, value in held.items()}
        shared = "shared_image_embedding.positional_embedding"
        if shared in weights:  # one matrix, known by two names
            weights["prompt_encoder.shared_embedding.positional_embedding"] = weights[shared]
        model = MobileSam(*_config(source))
        load_strictly(model, weights, path)
        return cls(model.to(dtype), IMAGENET)


def save_mobilesam(model: MobileSam, folder: Path) -> None:
    """A folder that `MobileSamSegmenter.open` reads, its weights under the release's names."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "mobilesam",
        **dataclasses.asdict(model.vision),
        "mask_decoder": model.decoder,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {
        renamed(name, to_release=True): value.contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith("prompt_encoder.shared_embedding.")
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _config(source: Source) -> tuple[TinyVitConfig, dict[str, Any]]:
    values = shape_of(source, "mobilesam")
    if values is not None:
        decoder = values.pop("mask_decoder", {})
        return from_dict(TinyVitConfig, values, f"config.json of {source}"), decoder
    return TinyVitConfig(), {}
