"""What the bridge expects of the parts around it, and the errors a user can meet.

An *image* is everywhere a torch.uint8 tensor (height, width, 3), RGB, upright. Coordinates are
pixels (x, y) of that image. The parts are handed in finished (see `adapters/build.py`); qformer
knows none of them by name, only these protocols.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from .proposals import Everything, Proposal


class LoupeError(ValueError):
    """Something a user can put right: one line that says what is wrong and what to do."""


class ImageError(LoupeError):
    """The picture cannot be used."""


class RegionError(LoupeError):
    """The click, box or region_mask does not name an area of the picture."""


class QuestionError(LoupeError):
    """The question cannot be asked."""


class CheckpointError(LoupeError):
    """A model folder is incomplete, damaged or of another kind."""


class StoppedError(LoupeError):
    """Long work was stopped by the one who asked for it."""


def hint(word: object, known: Iterable[str], otherwise: str | None = None) -> str:
    """Say which known word is meant ("did you mean 'vqa'?"), where one is near; else `otherwise`,
    by default the known ones."""
    names = list(known)
    near = difflib.get_close_matches(str(word), names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(names)}" if otherwise is None else otherwise


class VisionEncoder(Protocol):
    """A frozen image encoder (an nn.Module)."""

    image_size: tuple[int, int]  # (height, width) of pixel_values
    grid: tuple[int, int]  # patch (rows, columns)
    leading_tokens: int  # class and register tokens before the patches
    width: int

    def preprocess(self, image: Tensor) -> Tensor:
        """Image (H, W, 3) uint8 -> float (3, h, w): stretched to `image_size`, normalised."""
        ...

    def encode(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, h, w) -> image_embeds (B, leading_tokens + rows * columns, width)."""
        ...


@dataclass(frozen=True)
class Decoding:
    """How an answer is written. temperature 0 is greedy (or beam search where beams > 1)."""

    max_new_tokens: int = 32
    min_new_tokens: int = 0
    beams: int = 1
    temperature: float = 0.0
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise LoupeError(f"max_new_tokens={self.max_new_tokens} must be at least 1")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise LoupeError(
                f"min_new_tokens={self.min_new_tokens} must lie between 0 and"
                f" max_new_tokens={self.max_new_tokens}"
            )
        if self.beams < 1:
            raise LoupeError(f"beams={self.beams} must be at least 1")
        if not 0 <= self.temperature <= 100:
            raise LoupeError(f"temperature={self.temperature} must lie in 0 to 100; 0 is greedy")
        if self.beams > 1 and self.temperature > 0:
            raise LoupeError(
                f"beams={self.beams} and temperature={self.temperature} exclude each other:"
                " set beams=1 to sample, or temperature=0 to search"
            )
        if self.repetition_penalty <= 0:
            raise LoupeError(
                f"repetition_penalty={self.repetition_penalty} must be positive; 1 is none"
            )


class LanguageModel(Protocol):
    """A frozen language model (an nn.Module) that reads embeddings and writes token ids."""

    width: int
    context: int  # the most positions it can read and write together
    keeps_prefix: bool  # decoder-only: True; an encoder-decoder re-reads its text: False
    eos_id: int

    def tokenize(self, text: str) -> Tensor:
        """Text -> ids (n,), int64; no special token is added."""
        ...

    def start_ids(self) -> Tensor:
        """The ids (k,) that open a sequence: BOS for Llama, </s> for OPT, none for T5."""
        ...

    def embed(self, input_ids: Tensor) -> Tensor:
        """(n,) -> (n, width)."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Ids -> text, special tokens left out."""
        ...

    def new_prefix(self) -> Any | None:
        """An empty key/value prefix with `__len__`; None where keeps_prefix is False."""
        ...

    def generate(
        self,
        inputs_embeds: Tensor,
        decoding: Decoding,
        prefix: Any | None = None,
        answer_stop: int | None = None,
    ) -> Iterator[int]:
        """Yield new ids, EOS left out: one by one when greedy or sampled, all at the end for beams.

        inputs_embeds: (n, width), what follows `prefix`. answer_stop: one more id that ends the
        answer as EOS does. After normal exhaustion the prefix holds inputs_embeds and the new
        tokens (EOS included where it ended so); if the generator is closed early or fails, the
        prefix is cropped back to its old length.
        """
        ...

    def generate_together(self, prompts: Sequence[Tensor], decoding: Decoding) -> list[list[int]]:
        """The ids `generate` would yield for each prompt (n_i, width), written side by side."""
        ...

    def loss(
        self,
        prompts: Sequence[Tensor],
        answers: Sequence[Tensor],
        weights: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Mean cross entropy over the answers' tokens; gradients reach the prompts.

        prompts: (n_i, width) each. answers: ids (m_i,) each, EOS included. weights: (m_i,) each,
        one per answer token. Pads by itself; nothing is learned from prompt positions.
        """
        ...

    def answer_logits(self, prompts: Sequence[Tensor], answers: Sequence[Tensor]) -> list[Tensor]:
        """What is predicted at each place of each answer, (m_i, vocabulary) each; see `loss`."""
        ...


@dataclass(frozen=True)
class Capabilities:
    """What a segmenter was trained to be asked. What it was not is refused, or answered with a
    warning (`Segmentation.warnings`); never ignored."""

    points: bool = True
    negatives: bool = True  # clicks that exclude
    boxes: bool = True
    box_and_points: bool = True
    logits: bool = True  # an earlier mask as a prompt
    several: bool = True  # up to three readings of one click: part, object, whole
    text: bool = False
    exemplars: bool = False  # boxes around things of the kind to find
    max_points: int | None = None  # a box takes two
    resize: str = "longest side, padded"  # or "stretched"
    licence: str = "not stated"


@dataclass(frozen=True)
class SegmentPrompt:
    """What the user pointed at, in pixels of the image."""

    points: tuple[tuple[float, float, int], ...] = ()  # (x, y, 1 add | 0 exclude)
    box: tuple[float, float, float, float] | None = None  # (x0, y0, x1, y1)
    logits: Tensor | None = None  # (h, w) of an earlier Segmentation, to refine it


@dataclass
class Segmentation:
    """The segmenter's proposals, best first: for a lone click up to three, which may be a part, the
    object and the whole. Which of them is meant, only the user knows: `View.refine` goes on from
    any."""

    region_masks: Sequence[Tensor]  # m of bool (height, width), made when they are looked at
    scores: Tensor  # (m,) predicted intersection over union
    logits: Tensor  # (m, h, w) low resolution, for `SegmentPrompt.logits`
    prompt: SegmentPrompt = field(default_factory=SegmentPrompt)  # what was asked
    warnings: tuple[str, ...] = ()  # a sentence for each prompt the model was not trained for


class Segmenter(Protocol):
    """A frozen, promptable segmenter (an nn.Module)."""

    capabilities: Capabilities

    def encode(self, image: Tensor) -> Any:
        """Image (H, W, 3) uint8 -> an opaque embedding that remembers its model and picture."""
        ...

    def segment(self, embedding: Any, prompt: SegmentPrompt) -> Segmentation:
        """One prompt on an encoded image; pays the mask decoder only. Raises RegionError."""
        ...

    def everything(
        self,
        image: Tensor,
        settings: Everything | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancel: Callable[[], bool] | None = None,
        embedding: Any = None,
    ) -> list[Proposal]:
        """All that a grid of clicks finds, best first.

        settings: what they leave open is filled in as `settings` says.
        progress: told (clicks done, clicks in all). cancel: asked before each batch of clicks; True
        ends the work with StoppedError. embedding: of this image, if it was encoded before.
        """
        ...

    def settings(self, asked: Everything | None = None) -> Everything:
        """What `everything` goes by: as asked, the rest as it suits this model and device."""
        ...

    def find(
        self,
        embedding: Any,
        text: str,
        exemplars: Sequence[tuple[tuple[float, float, float, float], int]] = (),
        threshold: float = 0.3,
    ) -> list[Proposal]:
        """All that fits a text, best first; scores above `threshold`.

        exemplars: (box, 1 such things | 0 not such). Raises RegionError where the model reads no
        text.
        """
        ...


class TextTokenizer(Protocol):
    """The tokenizer of the Q-Former's text side."""

    def __call__(self, text: str) -> list[int]:
        """Text -> ids, no special ids."""
        ...
