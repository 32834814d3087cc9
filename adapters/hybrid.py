"""A hybrid ViT (arXiv 2010.11929, section 3.1): transformer blocks over a frozen trunk.

A patch of 32 pixels is a token. It holds what EfficientNet-Lite says of it at stride 16 (four
cells) and 32, what its classifier would average, and which of ImageNet's 1,000 classes that speaks
for, as a mean of vectors that stand for their names: so whatever the trunk was taught to tell apart
is told apart in the words of a language model, before anything is trained. One leading token is
the mean of all.

The trunk computes nine tenths and never trains, so its tokens can be kept: `trunk_tokens`, and
`blend` for the rest.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from adapters.efficientnet import MEAN, STD, EfficientNetLite, locate_trunk, open_trunk
from adapters.folder import HERE
from adapters.memory import Placement
from adapters.source import ModelSource, Source
from adapters.vision import HuggingFaceVisionEncoder, Normalisation
from adapters.weights import WeightFiles, check_fit
from qformer.config import from_dict
from qformer.contracts import CheckpointError, LoupeError

MODEL_TYPE = "loupe_hybrid"
TRUNK_PIXELS = Normalisation(MEAN, STD, "bilinear")
PATCH = 32  # pixels a side of a token: the trunk's coarsest stride
FINE_CELLS = 4  # cells of stride 16 in a token
CLASSES = 1000  # of the trunk's classifier


@dataclass(frozen=True)
class HybridConfig:
    """config.json. trunk: path of the EfficientNet-Lite's folder or package. image_size: pixels a
    side. names_width: of the vectors that stand for the trunk's classes."""

    trunk: str
    image_size: int = 320
    hidden_size: int = 320
    num_layers: int = 2
    num_heads: int = 5
    intermediate_size: int = 640
    names_width: int = 128
    model_type: str = MODEL_TYPE

    def __post_init__(self) -> None:
        if self.image_size < PATCH or self.image_size % PATCH:
            raise LoupeError(f"image_size={self.image_size} must be a multiple of {PATCH}")
        if self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise LoupeError(
                f"hidden_size={self.hidden_size} is not a multiple of num_heads={self.num_heads}"
            )
        if min(self.num_layers, self.intermediate_size, self.names_width) < 1:
            raise LoupeError("num_layers, intermediate_size and names_width must be at least 1")

    @property
    def patch_size(self) -> int:
        return PATCH


class HybridVit(nn.Module):
    """The trained part: sources made one width, positions, transformer blocks, a norm."""

    def __init__(self, config: HybridConfig, trunk: EfficientNetLite) -> None:
        super().__init__()
        self.config, self.trunk = config, trunk
        width, side = config.hidden_size, config.image_size // PATCH
        self.widths = (FINE_CELLS * trunk.fine_width, trunk.coarse_width, trunk.head_width)
        self.sources = nn.ModuleList(nn.Linear(one, width, bias=False) for one in self.widths)
        self.names = nn.Parameter(torch.zeros(CLASSES, config.names_width))
        self.named = nn.Linear(config.names_width, width, bias=False)
        self.positions = nn.Parameter(torch.zeros(1 + side * side, width))
        layer = nn.TransformerEncoderLayer(
            width, config.num_heads, config.intermediate_size, dropout=0.0, activation="gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(
            layer, config.num_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        nn.init.normal_(self.positions, std=0.02)
        trunk.requires_grad_(False)

    def trunk_tokens(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, h, w) -> what the trunk says, (B, 1 + patches, sum of `widths`)."""
        with torch.no_grad():
            maps = self.trunk(pixel_values)
            fine = F.pixel_unshuffle(maps.fine, 2)
            patches = torch.cat([fine, maps.coarse, maps.head], 1).flatten(2).mT
            return torch.cat([patches.mean(1, keepdim=True), patches], 1)

    def blend(self, trunk_tokens: Tensor) -> Tensor:
        """`trunk_tokens` -> image_embeds (B, 1 + patches, width)."""
        parts = trunk_tokens.to(self.names.dtype).split(self.widths, dim=-1)
        with torch.no_grad():
            classes = self.trunk.logits(parts[-1]).softmax(-1)
        states = self.positions + self.named(classes @ self.names)
        for source, part in zip(self.sources, parts, strict=True):
            states = states + source(F.layer_norm(part, part.shape[-1:]))
        return self.layers(states)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.blend(self.trunk_tokens(pixel_values))


class HybridVisionEncoder(HuggingFaceVisionEncoder):
    """qformer's VisionEncoder over a HybridVit."""

    model: HybridVit

    def __init__(self, model: HybridVit, normalisation: Normalisation = TRUNK_PIXELS) -> None:
        super().__init__(model, leading_tokens=1, normalisation=normalisation)

    def read(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values)

    @property
    def trunk(self) -> EfficientNetLite:
        return self.model.trunk

    @torch.no_grad()
    def trunk_tokens(self, pixel_values: Tensor) -> Tensor:
        """What never trains of an encoder: (B, 3, h, w) -> (B, 1 + patches, trunk width)."""
        return self.model.trunk_tokens(pixel_values.to(self.device, self.dtype))

    def blend(self, trunk_tokens: Tensor) -> Tensor:
        """The rest: `trunk_tokens` -> image_embeds, with gradients where this trains."""
        return self.model.blend(trunk_tokens.to(self.device)).float()

    def save(self, folder: Path) -> None:
        """Write what is trained, in half precision; the trunk is named."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: value.half().contiguous()
            for name, value in self.model.state_dict().items()
            if not name.startswith("trunk.")
        }
        save_file(state, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(asdict(self.model.config), indent=2) + "\n")
        mean, std = (value.flatten().tolist() for value in (self.mean, self.std))
        settings = {"image_mean": mean, "image_std": std, "resample": 2}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def open_hybrid(
    source: Source,
    dtype: torch.dtype = torch.float32,
    *,
    placement: Placement = HERE,
) -> HybridVisionEncoder:
    """The encoder of a folder, its trunk included. Raises CheckpointError."""
    source = ModelSource.of(source)
    if source.model_type != MODEL_TYPE:
        raise CheckpointError(
            f"{source} is a {source.model_type!r} model, not {MODEL_TYPE!r}: name its kind"
        )
    config = from_dict(HybridConfig, source.settings(), f"config.json of {source}")
    model = HybridVit(config, open_trunk(locate_trunk(config.trunk, source.folder)))
    files = WeightFiles(source)
    weights = files.read(files)
    known = {n: v for n, v in model.state_dict().items() if not n.startswith("trunk.")}
    check_fit(known, weights, f"{source} does not fit its config.json")
    model.load_state_dict(weights, strict=False)
    model.to(dtype)
    return HybridVisionEncoder(model, Normalisation.open(source))
