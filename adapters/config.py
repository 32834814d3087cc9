"""What a checkpoint's config.json says, and the manifest that guards its files."""

from __future__ import annotations

from dataclasses import dataclass, field

from qformer.assistant import Suggestions
from qformer.bridge import BridgeConfig
from qformer.contracts import Decoding, LoupeError
from qformer.prompt import PromptConfig

FORMAT = 1


@dataclass(frozen=True)
class PartConfig:
    """A frozen part. kind: its name in adapters/registry.py. path: a folder, relative to the
    checkpoint's own, or a hub id; revision: which version of the latter."""

    kind: str
    path: str
    revision: str | None = None


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer of the Q-Former's text side."""

    path: str
    revision: str | None = None


@dataclass(frozen=True)
class CheckpointConfig:
    """config.json. segmenter None: regions come as region_masks only. tokenizer: for a bridge
    that reads text. lora: a lora/ folder is merged into the language model. domain: what the
    model knows, in a sentence; None: pictures of any kind. suggestions: questions a chat offers."""

    vision: PartConfig
    language: PartConfig
    bridge: BridgeConfig
    segmenter: PartConfig | None = None
    tokenizer: TokenizerConfig | None = None
    prompt: PromptConfig = field(default_factory=PromptConfig)
    decoding: Decoding = field(default_factory=Decoding)
    lora: bool = False
    domain: str | None = None
    suggestions: Suggestions = field(default_factory=Suggestions)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise LoupeError(
                f"format={self.format}: this Loupe reads format {FORMAT}; install the Loupe that "
                "wrote the checkpoint"
            )

    @property
    def parts(self) -> list[PartConfig | TokenizerConfig]:
        """Everything that lies outside the checkpoint's own files."""
        parts = (self.vision, self.language, self.segmenter, self.tokenizer)
        return [part for part in parts if part is not None]
