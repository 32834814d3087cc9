"""SAM's prompt encoder and mask decoder on a frozen convolutional trunk (arXiv 2304.02643).

The trunk (adapters/efficientnet.py) runs once for a picture. A small neck makes the image embedding
of its maps at strides 32 and 16; those at strides 8 and 4 join in the decoder, as in SAM 2 (arXiv
2408.00714), so that edges are crisp. The folder holds what was trained, and names the trunk.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.efficientnet import MEAN, STD, EfficientNetLite, locate_trunk, open_trunk
from adapters.packages import PREFIX
from adapters.release import load_strictly, read_weights, shape_of, weight_file
from adapters.segmenter_sam2 import Sam2Segmenter
from adapters.source import ModelSource, Source
from adapters.vision import Normalisation
from adapters.weights import SINGLE
from qformer.config import from_dict
from qformer.contracts import Capabilities, CheckpointError, LoupeError
from qformer.proposals import Everything

KIND = "lite_sam"
STRIDE = 16  # of the image embedding
TRUNK = "package:efficientnet-lite0"
HEAD_WIDTH = 32
NORMAL = Normalisation(MEAN, STD, "bilinear")
OWN = ("neck.", "prompt_encoder.", "mask_decoder.")  # beginnings of the names of what is trained


@dataclass(frozen=True)
class LiteSamConfig:
    """trunk: "package:NAME", or a file or folder, relative to the segmenter's own. image_size: the
    side of the square that a picture is stretched to. width: of the image embedding. blocks: of the
    neck, in which the places at stride 32 see each other. convolutions: of the neck, at stride 16.
    everything, click_reach: see adapters/segmenter.py."""

    trunk: str = TRUNK
    image_size: int = 512
    width: int = 128
    blocks: int = 2
    convolutions: int = 2
    everything: Everything = field(default_factory=Everything)
    click_reach: float | None = None

    def __post_init__(self) -> None:
        if self.image_size < 64 or self.image_size % 32:
            raise LoupeError(
                f"image_size={self.image_size} must be a multiple of 32, and 64 at least"
            )
        if self.width < HEAD_WIDTH or self.width % HEAD_WIDTH:
            raise LoupeError(f"width={self.width} must be a multiple of {HEAD_WIDTH}")


class ChannelNorm(nn.LayerNorm):
    """Over the channels of (B, channels, rows, columns)."""

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states.movedim(1, -1)).movedim(-1, 1)


class Edges(nn.Sequential):
    """A fine map of the trunk -> what joins in the decoder, where SAM 2 has one convolution."""

    def __init__(self, width: int, out: int) -> None:
        last = nn.Conv2d(out, out, 3, padding=1)
        super().__init__(ChannelNorm(width), nn.Conv2d(width, out, 1), nn.GELU(), last)
        nn.init.zeros_(last.weight)  # until it has learned what to add


class Around(nn.Module):
    """Each place sees those around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.inside = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, states: Tensor) -> Tensor:
        return states + self.out(F.gelu(self.inside(self.norm(states))))


class Neck(nn.Module):
    """Maps at strides 16 and 32 -> the image embedding (B, width, rows, columns) at stride 16."""

    def __init__(self, fine: int, coarse: int, config: LiteSamConfig) -> None:
        super().__init__()
        width = config.width
        self.fine = nn.Sequential(ChannelNorm(fine), nn.Conv2d(fine, width, 1))
        self.coarse = nn.Sequential(ChannelNorm(coarse), nn.Conv2d(coarse, width, 1))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, width // HEAD_WIDTH, 3 * width, 0.0, "gelu", batch_first=True,
                norm_first=True,
            )
            for _ in range(config.blocks)
        )  # fmt: skip
        self.around = nn.ModuleList(Around(width) for _ in range(config.convolutions))
        self.norm = ChannelNorm(width)

    def forward(self, fine: Tensor, coarse: Tensor, positions: Tensor) -> Tensor:
        """positions: (1, width, rows, columns) at stride 32."""
        seen = self.coarse(coarse) + positions
        places = seen.flatten(2).transpose(1, 2)
        for block in self.blocks:
            places = block(places)
        seen = places.transpose(1, 2).unflatten(2, seen.shape[-2:])
        states = self.fine(fine) + F.interpolate(seen, scale_factor=2.0, mode="bilinear")
        for around in self.around:
            states = around(states)
        return self.norm(states)


class LiteSam(nn.Module):
    """The trunk, and what is trained on it. With transformers' parts of SAM 2."""

    def __init__(self, trunk: EfficientNetLite, config: LiteSamConfig) -> None:
        from transformers.models.sam2.configuration_sam2 import (
            Sam2MaskDecoderConfig,
            Sam2PromptEncoderConfig,
        )
        from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder, Sam2PromptEncoder

        super().__init__()
        self.config, width = config, config.width
        decoder = Sam2MaskDecoderConfig(
            hidden_size=width,
            mlp_dim=2 * width,
            num_attention_heads=width // HEAD_WIDTH,
            iou_head_hidden_dim=width,
            dynamic_multimask_via_stability=False,
        )
        decoder._attn_implementation = "sdpa"
        prompts = Sam2PromptEncoderConfig(
            hidden_size=width, image_size=config.image_size, patch_size=STRIDE
        )
        four, eight, fine, coarse = trunk.widths
        self.trunk = trunk
        self.neck = Neck(fine, coarse, config)
        self.prompt_encoder = Sam2PromptEncoder(prompts)
        self.mask_decoder = Sam2MaskDecoder(decoder)
        self.mask_decoder.conv_s0 = Edges(four, width // 8)
        self.mask_decoder.conv_s1 = Edges(eight, width // 4)
        self.mask_decoder.pred_obj_score_head = nn.Identity()  # that of videos

    def adopt(self, sam: Any) -> None:
        """Start with the prompt encoder and the mask decoder of a SamModel of the same width: what
        a click is need not be learned anew. Raises CheckpointError for one of another shape."""
        weights = {
            renamed(name): value
            for name, value in sam.state_dict().items()
            if name.startswith(OWN) and ".point_embed." not in name
        }
        points = [one.weight for one in sam.prompt_encoder.point_embed]
        weights["prompt_encoder.point_embed.weight"] = torch.cat(points)
        own = self.state_dict()
        shapes = [weights[name].shape == own[name].shape for name in weights if name in own]
        if not all(shapes) or not weights.keys() <= own.keys():
            raise CheckpointError(
                f"this SAM's decoder is of another shape than one of width {self.config.width}"
            )
        self.load_state_dict(own | weights)
        nn.init.zeros_(self.mask_decoder.obj_score_token.weight)  # SAM has no such token

    def get_image_wide_positional_embeddings(self, stride: int = STRIDE) -> Tensor:
        """(1, width, rows, columns)."""
        embedding = self.prompt_encoder.shared_embedding
        matrix = embedding.positional_embedding
        count = self.config.image_size // stride
        middle = (torch.arange(count, device=matrix.device, dtype=matrix.dtype) + 0.5) / count
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        return embedding(torch.stack([x, y], -1)).permute(2, 0, 1)[None]

    def merge(self, maps: tuple[Tensor, ...], positions: Tensor) -> tuple[Tensor, ...]:
        """The trunk's maps -> what the decoder reads: at strides 4, 8 and 16. positions: those at
        stride 32."""
        four, eight, fine, coarse = maps
        edges = self.mask_decoder.conv_s0(four), self.mask_decoder.conv_s1(eight)
        return *edges, self.neck(fine, coarse, positions)


class LiteSegmenter(Sam2Segmenter):
    family = "lite-sam"
    capabilities = Capabilities(resize="stretched", licence="Apache-2.0")
    normal = NORMAL
    usual = Everything(pred_iou_thresh=0.5, stability_score_thresh=0.7, stability_score_offset=0.5)

    def __init__(self, model: LiteSam, normalisation: Normalisation = NORMAL) -> None:
        super().__init__(model, normalisation)
        self.click_reach = model.config.click_reach
        self.usual = model.config.everything.over(type(self).usual)
        self.coarse_positions: Tensor
        with torch.no_grad():
            coarse = model.get_image_wide_positional_embeddings(2 * STRIDE)
        self.register_buffer("coarse_positions", coarse, persistent=False)

    @classmethod
    def new(cls, config: LiteSamConfig, base: Path = Path()) -> Self:
        """An untrained one on its trunk, which is named relative to `base`."""
        config = replace(config, trunk=locate_trunk(config.trunk, base))
        return cls(LiteSam(open_trunk(config.trunk), config))

    @classmethod
    def open(cls, source: Source, dtype: torch.dtype = torch.float32) -> Self:
        source = ModelSource.of(source)
        path = weight_file(source, (SINGLE,))
        values = shape_of(path.parent, KIND) or {}
        config = from_dict(LiteSamConfig, values, f"config.json of {source}")
        config = replace(config, trunk=locate_trunk(config.trunk, path.parent))
        model = LiteSam(open_trunk(config.trunk), config)
        trunk = {f"trunk.{name}": value for name, value in model.trunk.state_dict().items()}
        load_strictly(model, {**read_weights(path), **trunk}, path)
        return cls(model.to(dtype), cls.normalisation(source))

    @cached_property
    def tag(self) -> str:
        return f"{super().tag}-{self.input_size}"  # of one size's embeddings

    def at(self, size: int) -> Self:
        """The same, for pictures stretched to another size: positions are shares of the side."""
        other = LiteSam(self.model.trunk, replace(self.model.config, image_size=size))
        other.load_state_dict(self.model.state_dict())
        return type(self)(other.to(self.dtype))

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return self.model.trunk.pyramid(pixel_values)

    def merge(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.model.merge(features, self.coarse_positions)


def renamed(name: str) -> str:
    """A weight of transformers' SAM as it is called in its SAM 2."""
    for old, new in ((".out_proj.", ".o_proj."), (".lin1.", ".proj_in."), (".lin2.", ".proj_out.")):
        name = name.replace(old, new)
    return name


def save_lite(segmenter: LiteSegmenter, folder: Path) -> None:
    """A folder that `LiteSegmenter.open` reads: all but the trunk, in half precision."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    held: dict[str, Any] = {"model_type": KIND, **asdict(segmenter.model.config)}
    usual = asdict(Everything())
    held["everything"] = {k: v for k, v in held["everything"].items() if v != usual[k]}
    if not held["trunk"].startswith(PREFIX):
        held["trunk"] = os.path.relpath(held["trunk"], folder)
    (folder / "config.json").write_text(json.dumps(held, indent=2) + "\n")
    weights = {
        name: value.half().contiguous()
        for name, value in segmenter.model.state_dict().items()
        if name.startswith(OWN)
    }
    save_file(weights, folder / SINGLE, {"format": "pt"})
    mean, std = segmenter.mean.flatten().tolist(), segmenter.std.flatten().tolist()
    values = {"image_mean": mean, "image_std": std, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(values, indent=2) + "\n")
