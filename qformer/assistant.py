"""The whole assistant. A picture becomes a View, a click a Region, a question an answer:

    view = assistant.encode(image)
    region = view.click(120, 80)
    print(view.ask("What is this?", [region]))

Read on in `view.py` (a picture and its regions) and `conversation.py` (turns).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .bridge import Bridge
from .confidence import Confidence
from .contracts import (
    CheckpointError,
    Decoding,
    ImageError,
    LanguageModel,
    Segmenter,
    TextTokenizer,
    VisionEncoder,
)
from .prompt import PromptConfig
from .view import View


@dataclass(frozen=True)
class Suggestions:
    """Questions a chat may offer: on the picture, on one region, on a pair of regions. "{1}" and
    "{2}" stand for the names of the regions asked about."""

    picture: tuple[str, ...] = ()
    region: tuple[str, ...] = ()
    pair: tuple[str, ...] = ()


@dataclass(frozen=True)
class AssistantConfig:
    """prompt: how a turn is worded. decoding: how answers are written unless a question says
    otherwise. domain: what the model knows, in a sentence; None: pictures of any kind.
    suggestions: what it answers well. confidence: how likely its answers are right; None: not
    known."""

    prompt: PromptConfig = field(default_factory=PromptConfig)
    decoding: Decoding = field(default_factory=Decoding)
    domain: str | None = None
    suggestions: Suggestions = field(default_factory=Suggestions)
    confidence: Confidence | None = None


class Assistant(nn.Module):
    """A frozen vision encoder and language model, the trained bridge between them, a segmenter.

    The parts come finished (see `adapters/build.py`) and are put into evaluation mode; nothing
    here computes gradients. segmenter may be None: regions then come as region_masks. tokenizer
    is the Q-Former's, for a bridge that reads the question.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        bridge: Bridge,
        language: LanguageModel,
        segmenter: Segmenter | None = None,
        config: AssistantConfig | None = None,
        tokenizer: TextTokenizer | None = None,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.bridge = bridge
        self.language = language
        self.segmenter = segmenter
        self.config = config or AssistantConfig()
        self.tokenizer = tokenizer
        qformer = bridge.config.qformer
        if qformer.encoder_hidden_size != vision.width:
            raise CheckpointError(
                f"the bridge reads image_embeds {qformer.encoder_hidden_size} wide, the vision"
                f" encoder gives {vision.width}: choose the encoder it was trained with"
            )
        if bridge.config.language_width != language.width:
            raise CheckpointError(
                f"the bridge speaks to a language model {bridge.config.language_width} wide,"
                f" this one is {language.width}: choose the one it was trained with"
            )
        if bridge.config.instruct and tokenizer is None:
            raise CheckpointError(
                "the bridge reads the question: give the tokenizer of its Q-Former"
            )
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.bridge.image_layernorm.weight.device

    def encode(self, image: Tensor) -> View:
        """Read a picture once: uint8 (height, width, 3), RGB, upright. Raises ImageError."""
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[2] != 3 or not len(image):
            raise ImageError(
                f"the image is {image.dtype} {tuple(image.shape)}: give RGB as a torch.uint8"
                " tensor (height, width, 3)"
            )
        view = View(self, image)
        _ = view.memory  # now, so that the first question does not wait for it
        return view
