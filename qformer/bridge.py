"""The bridge: everything that is trained between the frozen encoder and the language model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from .config import QFormerConfig
from .contracts import LoupeError
from .familiarity import Familiarity
from .qformer import ImageMemory, QFormer, QFormerOutput
from .regions import RegionConfig, RegionUpgrade, patch_bias


@dataclass(frozen=True)
class BridgeConfig:
    """language_width: None for a stage-1 bridge without a language model.

    instruct: the question enters the Q-Former (InstructBLIP). max_instruction: its most tokens.
    end_id: the id that closes it, BERT's [SEP] in InstructBLIP.
    familiarity: the bridge knows pictures unlike those it was trained on, see familiarity.py.
    image_norm_eps: of the norm over image_embeds; 1e-5 in LAVIS, 1e-6 in Hugging Face's models.
    """

    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    region: RegionConfig = field(default_factory=RegionConfig)
    language_width: int | None = None
    instruct: bool = False
    max_instruction: int = 64
    end_id: int | None = None
    familiarity: bool = False
    image_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.language_width is not None and self.language_width < 1:
            raise LoupeError(f"language_width={self.language_width} must be at least 1, or null")
        if self.instruct and not self.qformer.vocab_size:
            raise LoupeError("instruct=true needs a Q-Former that reads text: set its vocab_size")
        if self.instruct and not 2 <= self.max_instruction <= self.qformer.max_positions:
            raise LoupeError(
                f"max_instruction={self.max_instruction} must lie between 2 and"
                f" max_positions={self.qformer.max_positions}"
            )
        if not 0 < self.image_norm_eps < 1:
            raise LoupeError(f"image_norm_eps={self.image_norm_eps} must lie between 0 and 1")
        if self.end_id is not None and not 0 <= self.end_id < max(1, self.qformer.vocab_size):
            raise LoupeError(
                f"end_id={self.end_id} is outside vocab_size={self.qformer.vocab_size}"
            )


@dataclass
class Focal:
    """Focal crops of some rows: what they remember, whose they are, what they cover."""

    memory: ImageMemory  # F crops
    rows: Tensor  # (F,) int64, ascending row numbers of the PassRows
    patch_coverage: Tensor  # (F, patches), the region on the crop's own grid


@dataclass
class PassRows:
    """What the Q-Former is asked: N passes over B pictures, N / B for each, picture by picture."""

    patch_coverage: Tensor  # (N, patches) in [0, 1]; ones for a global pass
    is_region: Tensor  # bool (N,)
    geometry: Tensor  # (N, 5), see regions.box_geometry; ignored for a global pass
    input_ids: Tensor | None = None  # (N, T) the instruction, for an instruct bridge
    attention_mask: Tensor | None = None  # (N, T), 1 real, 0 padding
    text_has_geometry: Tensor | None = None  # bool (N, T): the token names a region
    text_geometry: Tensor | None = None  # (N, T, 5) of that region, anything elsewhere
    focal: Focal | None = None

    def __len__(self) -> int:
        return len(self.patch_coverage)

    def split(self) -> list[PassRows]:
        """Each pass by itself."""
        crops = {} if self.focal is None else {n: i for i, n in enumerate(self.focal.rows.tolist())}
        return [self._only(slice(n, n + 1), crops.get(n)) for n in range(len(self))]

    def _only(self, rows: slice, crop: int | None) -> PassRows:
        values: dict[str, Any] = {
            one.name: None if value is None else value[rows]
            for one in dataclasses.fields(self)
            if one.name != "focal"
            for value in (getattr(self, one.name),)
        }
        if crop is not None and self.focal is not None:
            index = torch.tensor([crop], device=self.patch_coverage.device)
            values["focal"] = Focal(
                self.focal.memory.select(index),
                torch.zeros_like(index),
                self.focal.patch_coverage[index],
            )
        return PassRows(**values)

    @classmethod
    def whole(cls, count: int, patches: int, device: torch.device | None = None) -> PassRows:
        """`count` global passes: the plain BLIP-2."""
        return cls(
            patch_coverage=torch.ones(count, patches, device=device),
            is_region=torch.zeros(count, dtype=torch.bool, device=device),
            geometry=torch.zeros(count, 5, device=device),
        )


class Bridge(nn.Module):
    """Norm of the image_embeds, Q-Former, region upgrade, projection into the language model.

    Call `remember` once a picture, `query` for every set of passes, `project` for soft tokens.
    """

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__()
        self.config = config
        self.image_layernorm = nn.LayerNorm(  # BLIP-2's ln_vision
            config.qformer.encoder_hidden_size, eps=config.image_norm_eps
        )
        self.qformer = QFormer(config.qformer)
        self.region_upgrade = RegionUpgrade(config.qformer) if config.region.trainable else None
        self.language_projection = (
            nn.Linear(config.qformer.hidden_size, config.language_width)
            if config.language_width
            else None
        )
        self.familiarity = (
            Familiarity(config.qformer.encoder_hidden_size) if config.familiarity else None
        )

    def remember(self, image_embeds: Tensor, attention_mask: Tensor | None = None) -> ImageMemory:
        """image_embeds (B, tokens, encoder width) -> cross-attention keys and values, once."""
        image_embeds = image_embeds.to(self.image_layernorm.weight.dtype)
        return self.qformer.remember(self.image_layernorm(image_embeds), attention_mask)

    def query(self, memory: ImageMemory, rows: PassRows) -> Tensor:
        """Read B remembered pictures with N passes: query_embeds (N, queries, width).

        Raises ValueError for a region row that sees no patch, neither here nor in a focal crop.
        """
        return cast(Tensor, self.read(memory, rows).query_embeds)

    def read(self, memory: ImageMemory, rows: PassRows, return_maps: bool = False) -> QFormerOutput:
        """`query` with all that the Q-Former gives, cross-attention maps included if asked for.

        A map is (N, heads, queries, tokens); behind the picture's own tokens stand those of the
        focal crops, one slot after the other, see `focal_slots`.
        """
        if self.config.instruct and rows.input_ids is None:
            raise ValueError("this bridge is instruct: its rows need input_ids (the instruction)")
        return self.qformer(**self.inputs(memory, rows), return_maps=return_maps)

    def project(self, query_embeds: Tensor) -> Tensor:
        """(N, queries, width) -> soft tokens (N, queries, language width)."""
        if self.language_projection is None:
            raise LoupeError("this bridge has no language model: set language_width (stage 2)")
        return self.language_projection(query_embeds)

    def inputs(self, memory: ImageMemory, rows: PassRows) -> dict[str, Any]:
        """The Q-Former's arguments for these rows; stage 1 takes its region rows from here."""
        arguments: dict[str, Any] = {"memory": memory}
        if rows.input_ids is not None:
            arguments.update(input_ids=rows.input_ids, attention_mask=rows.attention_mask)
            named, geometry = rows.text_has_geometry, rows.text_geometry
            if self.region_upgrade is not None and named is not None and geometry is not None:
                offsets = self.region_upgrade.embed_geometry(geometry)
                arguments["text_offsets"] = offsets * named[..., None]
        if not rows.is_region.any():
            if rows.input_ids is None and len(rows) != len(memory):  # several passes a picture
                arguments["query_embeds"] = self.qformer.query_tokens.expand(len(rows), -1, -1)
            return arguments
        if self.region_upgrade is not None:
            change = (
                self.region_upgrade.delta
                + (self.region_upgrade.embed_geometry(rows.geometry)[:, None])
            )
            change = change * rows.is_region[:, None, None]
            arguments["query_embeds"] = self.qformer.query_tokens + change
        arguments["memory"], arguments["patch_bias"] = self._visible(memory, rows)
        return arguments

    def _visible(self, memory: ImageMemory, rows: PassRows) -> tuple[ImageMemory, Tensor]:
        """What each row may see: the memory, focal crops joined to it, and the patch_bias."""
        leading = memory.num_tokens - rows.patch_coverage.shape[1]
        hide = rows.is_region & self.config.region.hide_leading
        bias = self._scaled(patch_bias(rows.patch_coverage, leading, hide))
        focal = rows.focal
        if focal is None or not len(focal.rows):
            return memory, bias

        # Each source weighs the same whatever its number of patches, before the gate.
        focal_bias = self._scaled(patch_bias(focal.patch_coverage, leading, hide[focal.rows]))
        focal_bias = focal_bias - covered(focal.patch_coverage).log()[:, None]
        if self.region_upgrade is not None:
            focal_bias = focal_bias + self.region_upgrade.focal_gate[:, None, None]
        count = torch.ones_like(rows.patch_coverage[:, 0])
        count = count.index_copy(0, focal.rows, covered(rows.patch_coverage[focal.rows]))
        bias = bias - count.log()[:, None]

        pictures = len(memory)
        picture, slot, slots = focal_slots(focal.rows, len(rows), pictures)
        tokens = focal_bias.shape[-1]
        extra = bias.new_full((*bias.shape[:-1], slots, tokens), -torch.inf)
        extra[..., focal.rows, slot, :] = focal_bias.to(extra.dtype)

        def join(ours: Tensor, crops: Tensor) -> Tensor:  # (B, heads, t, d), (F, heads, t', d)
            placed = crops.new_zeros(pictures, slots, *crops.shape[1:])
            placed = placed.index_put((picture, slot), crops)
            return torch.cat([ours, placed.transpose(1, 2).flatten(2, 3)], dim=2)

        image_embeds = None  # what keys and values are made of, if the crops' is known too
        if memory.image_embeds is not None and focal.memory.image_embeds is not None:
            image_embeds = join(memory.image_embeds[:, None], focal.memory.image_embeds[:, None])
            image_embeds = image_embeds[:, 0]
        attention_mask = memory.attention_mask
        if attention_mask is not None:
            ones = attention_mask.new_ones(pictures, slots * tokens)
            attention_mask = torch.cat([attention_mask, ones], dim=1)
        joined = dataclasses.replace(
            memory,
            keys=[join(*pair) for pair in zip(memory.keys, focal.memory.keys, strict=True)],
            values=[join(*pair) for pair in zip(memory.values, focal.memory.values, strict=True)],
            attention_mask=attention_mask,
            image_embeds=image_embeds,
        )
        return joined, torch.cat([bias, extra.flatten(-2)], dim=-1)

    def _scaled(self, bias: Tensor) -> Tensor:
        return bias if self.region_upgrade is None else self.region_upgrade.scaled(bias)


def covered(patch_coverage: Tensor) -> Tensor:
    """(N, patches) -> (N,) float: patches that the region reaches, at least 1."""
    return (patch_coverage > 0).sum(1).clamp(min=1).to(patch_coverage.dtype)


def focal_slots(rows: Tensor, passes: int, pictures: int) -> tuple[Tensor, Tensor, int]:
    """Where each focal crop stands behind its picture's tokens.

    rows: (F,) ascending, of `passes` rows over `pictures`. Returns the picture (F,) of each crop,
    its slot (F,) there, and the number of slots.
    """
    picture = rows // (passes // pictures)
    slot = torch.arange(len(rows), device=rows.device) - torch.searchsorted(picture, picture)
    return picture, slot, int(slot.max()) + 1 if len(rows) else 0
