"""Settings of the embedded default's training: one frozen dataclass a phase, read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qformer.bridge import BridgeConfig
from qformer.config import from_dict
from qformer.contracts import Decoding, LoupeError
from qformer.prompt import PromptConfig
from train.loop import LoopConfig

CONFIGS = Path(__file__).parent / "configs"


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


def read_config(path: Path, changes: Sequence[str] = ()) -> EmbeddedConfig:
    """A TOML file, with "a.b=c" changes on top. Raises LoupeError for an unknown key."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError:
        raise LoupeError(f"there is no config {path}: see {CONFIGS}") from None
    except tomllib.TOMLDecodeError as error:
        raise LoupeError(f"{path} is not TOML: {error}") from None
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise LoupeError(f"--set {change!r}: write it as a.b=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *tables, last = name.strip().split(".")
        table = values
        for part in tables:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise LoupeError(f"--set {change!r}: {part} is not a table")
        table[last] = value
    return from_dict(EmbeddedConfig, values, path.name)
