"""What a checkpoint's config.json says, and the manifest that guards its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from adapters.source import ModelSource
from qformer.assistant import Suggestions
from qformer.bridge import BridgeConfig
from qformer.confidence import Confidence
from qformer.contracts import Decoding, LoupeError
from qformer.prompt import PromptConfig

FORMAT = 1


@dataclass(frozen=True)
class PartConfig:
    """A frozen part. kind: its name in adapters/registry.py. path: a folder, relative to the
    checkpoint's own, or a hub id; revision: which version of the latter. image_size: of a vision
    encoder, another side than its own in pixels; its positions are then interpolated. stop: of a
    language model, the text, one token, that ends an answer instead of its own end."""

    kind: str
    path: str
    revision: str | None = None
    image_size: int | None = None
    stop: str | None = None

    @property
    def source(self) -> ModelSource:
        return ModelSource(self.path, self.revision)

    @property
    def options(self) -> dict[str, Any]:
        """What the registry's entry is told beyond source and dtype."""
        told = {"image_size": self.image_size, "stop": self.stop}
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer of the Q-Former's text side. subfolder: of path, where it lies."""

    path: str
    revision: str | None = None
    subfolder: str = ""

    @property
    def source(self) -> ModelSource:
        return ModelSource(self.path, self.revision)


@dataclass(frozen=True)
class CheckpointConfig:
    """config.json. language None: a stage-1 model, which compares pictures with texts. segmenter
    None: regions come as region_masks only. tokenizer: for a bridge that reads text. heads: stage
    1's are stored beside the bridge. lora: a lora/ folder is merged into the language model.
    domain: what the model knows, in a sentence; None: pictures of any kind. suggestions: questions
    a chat offers. confidence: how likely answers are right, where that was measured."""

    vision: PartConfig
    language: PartConfig | None
    bridge: BridgeConfig
    segmenter: PartConfig | None = None
    tokenizer: TokenizerConfig | None = None
    prompt: PromptConfig = field(default_factory=PromptConfig)
    decoding: Decoding = field(default_factory=Decoding)
    heads: bool = False
    lora: bool = False
    domain: str | None = None
    suggestions: Suggestions = field(default_factory=Suggestions)
    confidence: Confidence | None = None
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise LoupeError(
                f"format={self.format}: this Loupe reads format {FORMAT}; install the Loupe that "
                "wrote the checkpoint"
            )
        if self.language is None and not self.heads:
            raise LoupeError("language=null needs heads=true: there is nothing else to answer with")
        if self.heads and self.tokenizer is None:
            raise LoupeError("heads=true needs a tokenizer, that of the Q-Former's text side")
        if self.language is None and (self.lora or self.bridge.language_width is not None):
            raise LoupeError("language=null goes with lora=false and bridge.language_width=null")

    @property
    def parts(self) -> list[PartConfig | TokenizerConfig]:
        """Everything that lies outside the checkpoint's own files."""
        parts = (self.vision, self.language, self.segmenter, self.tokenizer)
        return [part for part in parts if part is not None]
