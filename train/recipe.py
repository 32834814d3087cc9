"""The TOML file of `loupe train`: what is trained, from which parts, on which data, how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from adapters.config import PartConfig, TokenizerConfig
from qformer.bridge import BridgeConfig
from qformer.config import Over
from qformer.contracts import Decoding, LoupeError
from qformer.momentum import MomentumConfig
from qformer.prompt import PromptConfig
from train.config import read_config
from train.data.source import DataConfig
from train.features import Augment, CacheConfig
from train.loop import LoopConfig
from train.notes import NotesConfig


@dataclass(frozen=True)
class StartConfig:
    """Where training starts. checkpoint: "paintings", "photos", or a Loupe checkpoint's folder; or
    the frozen parts by name: vision and language (kind and path as in a checkpoint's config.json)
    and the Q-Former's tokenizer, which also replace a checkpoint's, or change what they name of it.
    bert: a BERT folder or hub id whose weights the Q-Former starts from. queries: soft tokens of a
    picture, where they are to be more than the checkpoint's; the new ones start beside the old. 0:
    as many as it has. shrink: what the matrices in the checkpoint's Q-Former are multiplied by; one
    that has learned long learns something else sooner from 0.6 of its weights (arXiv 1910.08475),
    but forgets what it knew."""

    checkpoint: str = ""
    vision: Over[PartConfig] | None = None
    language: Over[PartConfig] | None = None
    tokenizer: Over[TokenizerConfig] | None = None
    bert: str = ""
    queries: int = 0
    shrink: float = 1.0

    def replaces(self, part: str) -> bool:
        """Whether another `part` ("language") is named than the checkpoint's."""
        named = getattr(self, part)
        return named is not None and not {"kind", "path"}.isdisjoint(named.values)

    def __post_init__(self) -> None:
        if not 0 < self.shrink <= 1:
            raise LoupeError(f"start.shrink={self.shrink:g} must lie above 0, and be at most 1")
        if self.shrink < 1 and not self.checkpoint:
            raise LoupeError("start.shrink needs start.checkpoint: nothing else is there to shrink")
        if not self.checkpoint and self.vision is None:
            raise LoupeError(
                'start names nothing: give start.checkpoint="paintings" or another, or '
                "start.vision and start.language"
            )


@dataclass(frozen=True)
class LoraConfig:
    """LoRA (rsLoRA, arXiv 2312.03732). alpha: 0 for 2 * rank. targets: names of layers, by default
    all linear ones but the language model's head. where: the parts that get one. The language
    model's is kept beside it; those of the Q-Former, whose own weights then rest, and of the vision
    encoder are added to the weights that the checkpoint holds."""

    rank: int = 16
    alpha: int = 0
    targets: tuple[str, ...] = ()
    where: tuple[Literal["language", "qformer", "vision"], ...] = ("language",)

    def __post_init__(self) -> None:
        if not self.where:
            raise LoupeError("lora.where names no part: leave out [lora] for none")
        if self.rank < 1:
            raise LoupeError(f"lora.rank={self.rank} must be at least 1; leave out [lora] for none")


@dataclass(frozen=True)
class Trains:
    """What learns, besides LoRA: the bridge (Q-Former, projection, region upgrade), and the vision
    encoder, which is then saved with the checkpoint."""

    bridge: bool = True
    vision: bool = False


@dataclass(frozen=True)
class Recipe:
    """stage: "stage1" (Q-Former alone: match and write captions), "stage2" (captions through the
    language model) or "instruct" (questions too, also about regions). output: the run's folder.
    validate: data for loop.evaluate_every; evaluated: pictures of it. learn_validated: whether its
    pictures are learned where the data hold them too (data sets repeat pictures). turns:
    texts or questions of a picture in a step. text_tokens: of a caption in stage 1. bad_share: of
    samples that may be bad. dtype: of the frozen parts; quantize: the language model's linear
    layers in fewer bits (QLoRA, arXiv 2305.14314). matching: beside answers, stage 1's losses of
    the captions among the data at this weight; its heads are then kept, so that one checkpoint
    answers, and compares pictures with texts. momentum: ALBEF's teacher, for stage 1. notes:
    words that soft tokens are to be like, where the data have any, are learned too. bridge, prompt,
    decoding: what is to be other than in the checkpoint that training starts from."""

    stage: Literal["stage1", "stage2", "instruct"]
    start: StartConfig
    data: tuple[DataConfig, ...]
    loop: LoopConfig
    output: str = "runs/train"
    validate: tuple[DataConfig, ...] = ()
    evaluated: int = 500
    learn_validated: bool = False
    shown: int = 12
    turns: int = 4
    text_tokens: int = 32
    bad_share: float = 0.1
    trains: Trains = field(default_factory=Trains)
    lora: LoraConfig | None = None
    quantize: Literal["int8", "nf4"] | None = None
    matching: float = 0.0
    momentum: MomentumConfig | None = None
    notes: NotesConfig | None = None
    bridge: Over[BridgeConfig] | None = None
    prompt: Over[PromptConfig] | None = None
    decoding: Over[Decoding] | None = None
    cache: CacheConfig = field(default_factory=lambda: CacheConfig("runs/features"))
    augment: Augment = field(default_factory=Augment)
    domain: str | None = None
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        if not self.data:
            raise LoupeError("there are no data: add a [[data]] table with format and path")
        if self.turns < 1 or self.evaluated < 1:
            raise LoupeError(f"turns={self.turns} and evaluated={self.evaluated} must be 1 or more")
        if not 0 <= self.bad_share <= 1:
            raise LoupeError(f"bad_share={self.bad_share:g} must lie between 0 and 1")
        if self.loop.evaluate_every and not self.validate:
            raise LoupeError(
                f"evaluate_every={self.loop.evaluate_every} needs data to evaluate on: add a "
                "[[validate]] table, or set loop.evaluate_every=0"
            )
        if self.stage == "stage1" and self.lora_on("language"):
            raise LoupeError(
                'stage1 has no language model: leave out [lora], or set lora.where=["qformer"]'
            )
        if self.trains.vision and self.lora_on("vision"):
            raise LoupeError("trains.vision=true trains all of it: leave it out of lora.where")
        if self.matching < 0 or (self.matching and self.stage == "stage1"):
            raise LoupeError(
                f"matching={self.matching:g} goes beside answers, at 0 or more: stage1 is all that"
            )
        if self.momentum and self.stage != "stage1":
            raise LoupeError(f"[momentum] teaches stage1, and this is {self.stage}: leave it out")
        if self.notes and self.stage == "stage1":
            raise LoupeError("[notes] are words of a language model, and stage1 has none")
        if self.quantize and not self.lora_on("language"):
            raise LoupeError(f"quantize={self.quantize} trains a LoRA on top: add [lora]")
        if self.stage == "stage1" and self.loop.batch * self.turns < 2:
            raise LoupeError(
                f"loop.batch={self.loop.batch} with turns={self.turns}: stage1 contrasts texts and "
                "needs at least two in a batch"
            )
        scores = ("score", "itc", "itm", "itg") if self.stage == "stage1" else ("right", "loss")
        if self.loop.best and self.loop.best not in scores:
            raise LoupeError(
                f"loop.best={self.loop.best!r}: {self.stage} is scored by {', '.join(scores)}"
            )
        if not (self.trains.bridge or self.trains.vision or self.lora):
            raise LoupeError("nothing is trained: set trains.bridge=true or add [lora]")

    def lora_on(self, part: str) -> LoraConfig | None:
        return self.lora if self.lora and part in self.lora.where else None

    @property
    def vision_trains(self) -> bool:
        """All of the encoder or a LoRA on it: then it runs at every step, and is saved."""
        return self.trains.vision or self.lora_on("vision") is not None


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    return read_config(Recipe, path, changes)
