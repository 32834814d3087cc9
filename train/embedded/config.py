"""Settings of the embedded default's training: one frozen dataclass a phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qformer.bridge import BridgeConfig
from qformer.contracts import Decoding, LoupeError
from qformer.prompt import PromptConfig
from train.config import CONFIGS, read_config
from train.loop import LoopConfig
from train.notes import NotesConfig

SHIPPED = CONFIGS / "embedded.toml"


@dataclass(frozen=True)
class VisionConfig:
    """size: pixels a side, in patches of 8."""

    loop: LoopConfig
    size: int = 128
    width: int = 160
    layers: int = 3
    heads: int = 4


@dataclass(frozen=True)
class LanguageConfig:
    loop: LoopConfig
    vocabulary: int = 640
    width: int = 160
    layers: int = 4
    heads: int = 5
    context: int = 1024
    lora_rank: int = 16  # in stage 2; 0 leaves the language model as it is


@dataclass(frozen=True)
class SegmenterConfig:
    """size: pixels of the longest side. loop.batch: scenes, each under `prompts` prompts."""

    loop: LoopConfig
    size: int = 192
    patch: int = 8
    width: int = 128
    layers: int = 6
    heads: int = 4
    prompts: int = 4


@dataclass(frozen=True)
class EmbeddedConfig:
    """The whole pipeline. pictures: painted once for both stages. passes: Q-Former passes over each
    picture of a step of stage 2. questions: asked of each type in the evaluation. ablation_steps:
    of stage 2 in each arm of the ablations."""

    vision: VisionConfig
    language: LanguageConfig
    segmenter: SegmenterConfig
    bridge: BridgeConfig
    prompt: PromptConfig
    decoding: Decoding
    stage1: LoopConfig
    notes: NotesConfig
    stage2: LoopConfig
    domain: str
    seed: int = 0
    pictures: int = 8000
    passes: int = 22
    questions: int = 500
    ablation_steps: int = 300

    def __post_init__(self) -> None:
        if self.pictures < max(self.stage1.batch, self.stage2.batch):
            raise LoupeError(f"pictures={self.pictures} is less than a batch; paint more")


def read_embedded(path: Path = SHIPPED, changes: Sequence[str] = ()) -> EmbeddedConfig:
    return read_config(EmbeddedConfig, path, changes)
