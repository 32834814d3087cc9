"""Vision encoders: Hugging Face ViT folders, read up to the hidden state BLIP-2 reads."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.folder import HERE, open_model, read_image_processor, read_settings
from adapters.frozen import Frozen
from adapters.memory import Placement
from adapters.weights import Source
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
    "siglip2": (
        "Siglip2VisionModel",
        0,
    ),  # the one of any aspect ratio; others call themselves siglip
    "siglip2_vision_model": ("Siglip2VisionModel", 0),
    "align": ("AlignVisionModel", 0),  # a convolutional net: its last map is the patches
    "align_vision_model": ("AlignVisionModel", 0),
}
WHOLE = {  # models that hold a vision encoder as `vision_model`
    "blip-2": ("Blip2VisionModel", 1),
    "instructblip": ("InstructBlipVisionModel", 1),
}
ALIGN_STRIDE = 32  # pixels a cell of its last map


@dataclass(frozen=True)
class Normalisation:
    """How a model wants its pictures: channel means and deviations of values in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: str = "bicubic"  # or "bilinear"

    @classmethod
    def open(cls, source: Source, revision: str | None = None) -> Self:
        return cls.of(read_image_processor(source, revision), source)

    @classmethod
    def of(cls, settings: dict[str, Any], source: Source) -> Self:
        """settings: of a transformers image processor. source: what an error names."""
        mean: tuple[float, ...] = (0.0,) * 3
        std: tuple[float, ...] = (1.0,) * 3
        if settings.get("do_normalize", True):
            mean, std = (
                cls._channels(settings, key, source) for key in ("image_mean", "image_std")
            )
        # transformers normalises pixels times a factor; here it is pixels / 255.
        factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1
        gain = 255 * factor
        again: tuple[float, ...] = (1.0,) * 3
        shift = 0.0
        if "rescale_offset" in settings:  # an EfficientNet's: in [-1, 1], and divided twice
            shift = 1.0 if settings["rescale_offset"] else 0.0
            again = std if settings.get("include_top", True) else again
        mean = tuple((one + shift) / gain for one in mean)
        std = tuple(one * other / gain for one, other in zip(std, again, strict=True))
        number = settings.get("resample", 3)
        resample = {2: "bilinear", 3: "bicubic"}.get(number)  # PIL's numbers
        if resample is None:
            raise CheckpointError(
                f"{source} asks for pictures with resample={number}; 2 (bilinear) and 3 (bicubic)"
                " are known"
            )
        return cls(mean, std, resample)

    @staticmethod
    def _channels(settings: dict[str, Any], key: str, source: Source) -> tuple[float, ...]:
        """A number for each channel; a lone one is for all."""
        if key not in settings:
            raise CheckpointError(f"the picture settings of {source} lack {key}: copy it again")
        values = settings[key]
        values = [values] * 3 if isinstance(values, int | float) else values
        good = isinstance(values, list | tuple) and len(values) == 3
        if not good or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise CheckpointError(f"{key}={settings[key]} of {source} is not three numbers")
        if key == "image_std" and not all(values):
            raise CheckpointError(f"image_std={settings[key]} of {source} would divide by nothing")
        return tuple(map(float, values))


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")


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
        size, patch = image_size or self.side(config), config.patch_size
        self.interpolates = image_size not in (None, self.side(config))
        height, width = (size, size) if isinstance(size, int) else size
        patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
        if image_size and (height % patch_height or width % patch_width):
            raise CheckpointError(
                f"image_size={image_size} is not a multiple of the patches' {patch_height} pixels"
            )
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

    @staticmethod
    def side(config: Any) -> Any:
        """The side of its pictures, in pixels, or (height, width)."""
        return config.image_size

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
        return self.read(pixel_values.to(self.device, self.dtype)).float()

    def read(self, pixel_values: Tensor) -> Tensor:
        """What the model itself says of pixel_values of its own dtype."""
        output = self.model(
            pixel_values=pixel_values,
            output_hidden_states=self.hidden_state is not None,
            **({"interpolate_pos_encoding": True} if self.interpolates else {}),
        )
        if self.hidden_state is None:
            return output.last_hidden_state
        return output.hidden_states[self.hidden_state]

    def save(self, folder: Path) -> None:
        """Write it as a folder that opens as the one it came from did."""
        self.model.save_pretrained(folder)
        mean, std = (value.flatten().tolist() for value in (self.mean, self.std))
        resample = {"bilinear": 2, "bicubic": 3}[self.resample]
        settings = {"image_mean": mean, "image_std": std, "resample": resample}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


class Siglip2VisionEncoder(HuggingFaceVisionEncoder):
    """SigLIP 2's NaFlex models (arXiv 2502.14786), which are given patches; here a square of them,
    the one whose positions they store."""

    @staticmethod
    def side(config: Any) -> Any:
        return round(config.num_patches**0.5) * config.patch_size

    def read(self, pixel_values: Tensor) -> Tensor:
        rows, columns = self.grid
        patch = self.image_size[0] // rows
        cut = pixel_values.unflatten(3, (columns, patch)).unflatten(2, (rows, patch))
        patches = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B, patches, p * p * 3)
        count = len(patches)
        return self.model(
            pixel_values=patches,
            pixel_attention_mask=torch.ones(
                patches.shape[:2], dtype=torch.long, device=self.device
            ),
            spatial_shapes=torch.tensor([self.grid] * count, device=self.device),
        ).last_hidden_state


class AlignVisionEncoder(HuggingFaceVisionEncoder):
    """ALIGN's EfficientNet (arXiv 2102.05918): its last map, cell by cell."""

    def __init__(self, model: Any, leading_tokens: int, *arguments: Any, **options: Any) -> None:
        model.config.patch_size = ALIGN_STRIDE
        model.config.hidden_size = model.encoder.blocks[-1].projection.project_conv.out_channels
        super().__init__(model, leading_tokens, *arguments, **options)
        height, width = self.image_size  # its convolutions pad: a cell for each stride begun
        self.grid = (-(-height // ALIGN_STRIDE), -(-width // ALIGN_STRIDE))
        self.interpolates = False

    def read(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).last_hidden_state.flatten(2).mT


CLASSES = {"Siglip2VisionModel": Siglip2VisionEncoder, "AlignVisionModel": AlignVisionEncoder}


def open_vision_encoder(
    source: Source,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    *,
    hidden_state: int | None = None,
    image_size: int | None = None,
    placement: Placement = HERE,
) -> HuggingFaceVisionEncoder:
    """An encoder of any kind in ARCHITECTURES, read at its last state, or that of a whole model
    in WHOLE. image_size: see HuggingFaceVisionEncoder."""
    model_type = read_settings(source, "config.json", revision).get("model_type", "")
    if model_type not in ARCHITECTURES | WHOLE:
        raise CheckpointError(
            f"{source} is a {model_type!r} model; as vision encoders these are known: "
            + ", ".join(ARCHITECTURES | WHOLE)
        )
    architecture, leading_tokens = (ARCHITECTURES | WHOLE)[model_type]
    # A pooler is often not in the folder, and never read here; nor is a norm behind the state read.
    unread: tuple[str, ...] = ("pooler.", "head.", "vision_model.head.")
    if hidden_state is not None:
        unread += ("post_layernorm.", "vision_model.post_layernorm.", "layernorm.")
    model = open_model(
        source,
        dtype,
        revision,
        architecture,
        ignore_missing=unread,
        part="vision_model" if model_type in WHOLE else None,
        placement=Placement(placement.device),
    )
    leading_tokens += getattr(model.config, "num_register_tokens", 0)
    kind = CLASSES.get(architecture, HuggingFaceVisionEncoder)
    normalisation = Normalisation.open(source, revision)
    return kind(model, leading_tokens, normalisation, hidden_state, image_size)


def open_clip(
    source: Source,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    **options: Any,
) -> HuggingFaceVisionEncoder:
    """CLIP as BLIP-2 reads it: the output of the last block but one, without a norm. options: as
    for open_vision_encoder."""
    return open_vision_encoder(source, dtype, revision, hidden_state=-2, **options)


def open_eva(
    source: Source,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    **options: Any,
) -> HuggingFaceVisionEncoder:
    """EVA as BLIP-2 reads it: the output of its last block; `ln_vision` belongs to the bridge."""
    return open_vision_encoder(source, dtype, revision, hidden_state=-1, **options)
