"""Vision encoders: Hugging Face ViT folders, read up to the hidden state BLIP-2 reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.folder import Source, open_model, read_settings
from adapters.frozen import Frozen
from qformer.contracts import CheckpointError

# model_type -> class that holds the image side alone, and its tokens before the patches.
ARCHITECTURES: dict[str, tuple[str, int]] = {
    "vit": ("ViTModel", 1),
    "deit": ("DeiTModel", 2),
    "dinov2": ("Dinov2Model", 1),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", 1),  # and its registers
    "siglip": ("SiglipVisionModel", 0),
    "siglip_vision_model": ("SiglipVisionModel", 0),
    "clip": ("CLIPVisionModel", 1),
    "clip_vision_model": ("CLIPVisionModel", 1),
    "blip_2_vision_model": ("Blip2VisionModel", 1),
    "dpt": ("DPTModel", 1),  # its encoder; the hybrids have a convolutional stem
}


@dataclass(frozen=True)
class Normalisation:
    """What preprocessor_config.json says: channel means and deviations of values in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: str = "bicubic"  # or "bilinear"

    @classmethod
    def open(cls, source: Source, revision: str | None = None) -> Self:
        settings = read_settings(source, "preprocessor_config.json", revision)
        try:
            mean, std = tuple(settings["image_mean"]), tuple(settings["image_std"])
        except KeyError as key:
            raise CheckpointError(
                f"preprocessor_config.json of {source} lacks {key}: copy the folder again"
            ) from None
        resample = {2: "bilinear", 3: "bicubic"}.get(settings.get("resample", 3))  # PIL's numbers
        if resample is None:
            raise CheckpointError(
                f"preprocessor_config.json of {source} asks for resample="
                f"{settings['resample']}; 2 (bilinear) and 3 (bicubic) are known"
            )
        return cls(mean, std, resample)


class HuggingFaceVisionEncoder(Frozen):
    """qformer's VisionEncoder over a ViT of transformers.

    hidden_state: which state is read. None: the last one with its final norm. -2: the output of
    the last block but one. -1: that of the last block, before any norm. image_size: another side
    than the model's own, in pixels; its positions are then interpolated.
    """

    def __init__(
        self,
        model: Any,
        leading_tokens: int,
        normalisation: Normalisation,
        hidden_state: int | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        config = model.config
        size, patch = image_size or config.image_size, config.patch_size
        self.interpolates = image_size not in (None, config.image_size)
        height, width = (size, size) if isinstance(size, int) else size
        patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
        self.image_size: tuple[int, int] = (height, width)
        self.grid: tuple[int, int] = (height // patch_height, width // patch_width)
        self.leading_tokens = leading_tokens
        self.width: int = config.hidden_size
        self.model = model
        self.hidden_state = hidden_state
        self.resample = normalisation.resample
        self.mean: Tensor
        self.std: Tensor
        mean, std = torch.tensor(normalisation.mean), torch.tensor(normalisation.std)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)
        self.freeze()

    def preprocess(self, image: Tensor) -> Tensor:
        """(H, W, 3) uint8 -> (3, h, w) float32; within two grey levels of Pillow, and faster."""
        pixels = image.permute(2, 0, 1)[None]
        if pixels.shape[2:] != self.image_size:
            if pixels.device.type != "cpu":  # bytes are resized on the CPU alone
                pixels = pixels.float()
            pixels = F.interpolate(
                pixels, self.image_size, mode=self.resample, antialias=True, align_corners=False
            )
        values = pixels[0].to(self.mean.device).float().clamp(0, 255) / 255
        return (values - self.mean) / self.std

    @torch.no_grad()
    def encode(self, pixel_values: Tensor) -> Tensor:
        return self(pixel_values)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, h, w) -> image_embeds (B, leading_tokens + patches, width) float32."""
        output = self.model(
            pixel_values=pixel_values.to(self.device, self.dtype),
            output_hidden_states=self.hidden_state is not None,
            **({"interpolate_pos_encoding": True} if self.interpolates else {}),
        )
        if self.hidden_state is None:
            return output.last_hidden_state.float()
        return output.hidden_states[self.hidden_state].float()

    def save(self, folder: Path) -> None:
        """Write it as a folder that opens as the one it came from did."""
        self.model.save_pretrained(folder)
        mean, std = (value.flatten().tolist() for value in (self.mean, self.std))
        resample = {"bilinear": 2, "bicubic": 3}[self.resample]
        settings = {"image_mean": mean, "image_std": std, "resample": resample}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def open_vision_encoder(
    source: Source,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    hidden_state: int | None = None,
) -> HuggingFaceVisionEncoder:
    """A ViT of any kind in ARCHITECTURES, read at its last state."""
    model_type = read_settings(source, "config.json", revision).get("model_type")
    if model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"{source} is a {model_type!r} model; as vision encoders these are known: "
            + ", ".join(ARCHITECTURES)
        )
    architecture, leading_tokens = ARCHITECTURES[model_type]
    # A pooler is often not in the folder, and never read here.
    model = open_model(source, dtype, revision, architecture, ignore_missing=("pooler.", "head."))
    leading_tokens += getattr(model.config, "num_register_tokens", 0)
    normalisation = Normalisation.open(source, revision)
    return HuggingFaceVisionEncoder(model, leading_tokens, normalisation, hidden_state)


def open_clip(
    source: Source, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> HuggingFaceVisionEncoder:
    """CLIP as BLIP-2 reads it: the output of the last block but one, without a norm."""
    return open_vision_encoder(source, dtype, revision, hidden_state=-2)


def open_eva(
    source: Source, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> HuggingFaceVisionEncoder:
    """EVA as BLIP-2 reads it: the output of its last block; `ln_vision` belongs to the bridge."""
    return open_vision_encoder(source, dtype, revision, hidden_state=-1)
