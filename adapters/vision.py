"""Vision encoders: Hugging Face ViT folders, read up to the hidden state BLIP-2 reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.folder import HERE, open_model
from adapters.frozen import Frozen
from adapters.memory import Placement
from adapters.source import WHOLE_MODELS, ModelSource, Source
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
ARCHITECTURES |= {kind: (name, 1) for kind, name in WHOLE_MODELS.items()}  # their `vision_model`
ALIGN_STRIDE = 32  # pixels a cell of its last map


@dataclass(frozen=True)
class Normalisation:
    """How a model wants its pictures: channel means and deviations of values in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: str = "bicubic"  # or "bilinear"

    @classmethod
    def open(cls, source: Source) -> Self:
        return cls.of(ModelSource.of(source).image_processor(), source)

    @classmethod
    def of(cls, settings: dict[str, Any], source: Source) -> Self:
        """settings: of a transformers image processor. source: what an error names."""
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if _flag(settings, "do_normalize", True, source):
            mean = _channels(settings, "image_mean", source)
            std = _deviations(settings, source)
        # transformers normalises pixels times a factor; here it is pixels / 255.
        factor = _number(settings, "rescale_factor", 1 / 255, source)
        if factor <= 0:
            raise CheckpointError(f"rescale_factor={factor} of {source} must be above 0")
        gain = 255 * (factor if _flag(settings, "do_rescale", True, source) else 1.0)
        shift, again = 0.0, (1.0, 1.0, 1.0)
        if "rescale_offset" in settings:  # an EfficientNet's: in [-1, 1], and divided twice
            shift = 1.0 if _flag(settings, "rescale_offset", True, source) else 0.0
            if _flag(settings, "include_top", True, source):
                again = _deviations(settings, source)
        red, green, blue = ((one + shift) / gain for one in mean)
        mean = (red, green, blue)
        red, green, blue = (one * other / gain for one, other in zip(std, again, strict=True))
        std = (red, green, blue)
        number = _number(settings, "resample", 3, source)
        resample = {2: "bilinear", 3: "bicubic"}.get(int(number))  # PIL's numbers
        if resample is None:
            raise CheckpointError(
                f"{source} asks for pictures with resample={number:g}; 2 (bilinear) and 3 (bicubic)"
                " are known"
            )
        return cls(mean, std, resample)


Channels = tuple[float, float, float]


def _channels(settings: dict[str, Any], name: str, source: Source) -> Channels:
    """A number for each colour; a lone one is for all. Raises CheckpointError."""
    if name not in settings:
        raise CheckpointError(
            f"the picture settings of {source} lack {name}: copy the folder again"
        )
    values = settings[name]
    values = [values] * 3 if _is_number(values) else values
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_number, values)):
        raise CheckpointError(f"{name}={settings[name]!r:.60} of {source} is not three numbers")
    red, green, blue = map(float, values)
    return red, green, blue


def _deviations(settings: dict[str, Any], source: Source) -> Channels:
    std = _channels(settings, "image_std", source)
    if min(std) <= 0:
        raise CheckpointError(
            f"image_std={settings['image_std']!r:.60} of {source} would divide by nothing: it must"
            " be above 0"
        )
    return std


def _number(settings: dict[str, Any], name: str, usual: float, source: Source) -> float:
    """A finite number; `usual` where it is not told. Raises CheckpointError."""
    value = settings.get(name)
    if value is None:
        return usual
    if not _is_number(value):
        raise CheckpointError(f"{name}={value!r:.60} of {source}: expected a number")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _flag(settings: dict[str, Any], name: str, usual: bool, source: Source) -> bool:
    value = settings.get(name, usual)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{name}={value!r:.60} of {source}: expected true or false")
    return usual if value is None else value


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
    *,
    hidden_state: int | None = None,
    image_size: int | None = None,
    placement: Placement = HERE,
) -> HuggingFaceVisionEncoder:
    """An encoder of any kind in ARCHITECTURES, read at its last state, whole models' included.
    image_size: see HuggingFaceVisionEncoder."""
    source = ModelSource.of(source)
    model_type = source.model_type or ""
    if model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"{source} is a {model_type!r} model; as vision encoders these are known: "
            + ", ".join(ARCHITECTURES)
        )
    architecture, leading_tokens = ARCHITECTURES[model_type]
    # A pooler is often not in the folder, and never read here; nor is a norm behind the state read.
    unread: tuple[str, ...] = ("pooler.", "head.", "vision_model.head.")
    if hidden_state is not None:
        unread += ("post_layernorm.", "vision_model.post_layernorm.", "layernorm.")
    model = open_model(
        source,
        dtype,
        architecture,
        ignore_missing=unread,
        part=source.part("vision_model"),
        placement=Placement(placement.device),
    )
    leading_tokens += getattr(model.config, "num_register_tokens", 0)
    kind = CLASSES.get(architecture, HuggingFaceVisionEncoder)
    normalisation = Normalisation.open(source)
    return kind(model, leading_tokens, normalisation, hidden_state, image_size)


def open_clip(
    source: Source,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> HuggingFaceVisionEncoder:
    """CLIP as BLIP-2 reads it: the output of the last block but one, without a norm. options: as
    for open_vision_encoder."""
    return open_vision_encoder(source, dtype, hidden_state=-2, **options)


def open_eva(
    source: Source,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> HuggingFaceVisionEncoder:
    """EVA as BLIP-2 reads it: the output of its last block; `ln_vision` belongs to the bridge."""
    return open_vision_encoder(source, dtype, hidden_state=-1, **options)
