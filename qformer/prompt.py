"""How a turn is laid out: the instruction for the Q-Former, the prompt for the language model.

Training and answering both go through here, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .bridge import BridgeConfig
from .contracts import LanguageModel, LoupeError, QuestionError, TextTokenizer

Composer = Literal["regions", "global+regions", "text"]
COMPOSERS: tuple[Composer, ...] = ("regions", "global+regions", "text")

PICTURE = "picture"  # the source of the global soft tokens
UNION = "regions"  # the source of the soft tokens of all asked regions as one
RESERVED_NAMES = (PICTURE, UNION)


@dataclass(frozen=True)
class PromptConfig:
    """The words around the soft tokens; `{tokens}` is where those stand.

    composer: "regions" (the picture's tokens only if no region is asked about), "global+regions",
    or "text" (each region captioned by the model itself, and the tokens of their union).
    start_ids: whether the language model's own opening ids stand first of all, or after the
    picture's tokens, where BLIP-2 and InstructBLIP put them. start: text that opens a
    conversation, there. turn: what stands between turns. caption: the question behind a caption,
    of the picture or a region, asked in the words of caption_question instead of question.
    """

    composer: Composer = "global+regions"
    start_ids: Literal["first", "after picture"] = "first"
    start: str = ""
    picture: str = "{tokens}"
    region: str = "{name}: {tokens}"
    question: str = "Question: {question} Answer:"
    turn: str = ""
    caption: str = "a photo of"
    caption_question: str = "{question}"

    def __post_init__(self) -> None:
        if self.composer not in COMPOSERS:
            raise LoupeError(f"composer={self.composer!r}: choose one of {COMPOSERS}")
        for name, needed in (
            ("picture", "{tokens}"),
            ("region", "{tokens}"),
            ("region", "{name}"),
            ("question", "{question}"),
            ("caption_question", "{question}"),
        ):
            if getattr(self, name).count(needed) != 1:
                raise LoupeError(f"prompt {name}={getattr(self, name)!r} needs one {needed}")
        if not self.caption.strip():
            raise LoupeError('prompt caption is empty: give it words, e.g. "a photo of"')

    def for_captions(self) -> PromptConfig:
        """The words around `caption`, of a picture or of a region alone."""
        return replace(self, composer="regions", question=self.caption_question)


@dataclass(frozen=True)
class SoftTokens:
    """A place in the prompt for soft tokens. source: PICTURE, UNION or a region's name."""

    source: str


@dataclass(frozen=True)
class StartIds:
    """The place of the language model's opening ids."""


Piece = str | SoftTokens | StartIds


def declarations(
    composer: Composer, regions: Sequence[str], declared: Collection[str] = ()
) -> list[str]:
    """The sources a turn declares, in order.

    regions: names asked about. declared: what earlier turns declared; nothing is declared twice
    (an instruct bridge passes none: its tokens are made anew for each question).
    """
    new = [name for name in regions if name not in declared]
    if composer == "text" and new:
        return [UNION, *new]
    if composer == "global+regions" or not regions:
        return ([] if PICTURE in declared else [PICTURE]) + new
    return new


def lay_out(
    config: PromptConfig,
    question: str,
    declare: Sequence[str],
    *,
    first: bool = True,
    captions: Mapping[str, str] | None = None,
) -> list[Piece]:
    """What the language model reads in one turn, before it answers.

    declare: from `declarations`. first: the turn opens the conversation. captions: region name ->
    text that stands for its soft tokens (composer "text"). No two texts follow each other.
    """
    pieces: list[Piece] = [] if first else [config.turn]
    start: list[Piece] = [StartIds(), config.start] if first else []
    late = config.start_ids == "after picture" and {PICTURE, UNION} & set(declare)
    if not late:
        pieces += start
    for source in declare:
        template = config.picture if source in RESERVED_NAMES else config.region
        before, after = (part.replace("{name}", source) for part in template.split("{tokens}"))
        caption = (captions or {}).get(source)
        pieces += [before, SoftTokens(source) if caption is None else caption, after]
        if late and source in RESERVED_NAMES:
            pieces += start
    pieces.append(config.question.replace("{question}", question))
    merged: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        elif piece != "":
            merged.append(piece)
    return merged


def sources(pieces: Sequence[Piece]) -> list[str]:
    """The sources of a layout's soft tokens, in order."""
    return [piece.source for piece in pieces if isinstance(piece, SoftTokens)]


def assemble(
    language: LanguageModel, pieces: Sequence[Piece], soft_tokens: Mapping[str, Tensor]
) -> Tensor:
    """A layout as the language model reads it: inputs_embeds (n, language width).

    soft_tokens: source -> (queries, language width).
    """
    parts = []
    for piece in pieces:
        if isinstance(piece, SoftTokens):
            parts.append(soft_tokens[piece.source])
        else:
            ids = language.start_ids() if isinstance(piece, StartIds) else language.tokenize(piece)
            parts.append(language.embed(ids))
    return torch.cat([part.to(parts[0].dtype) for part in parts if len(part)])


def count_tokens(language: LanguageModel, pieces: Sequence[Piece], queries: int) -> int:
    """Length of `assemble`'s result, `queries` soft tokens a source."""
    count = 0
    for piece in pieces:
        if isinstance(piece, SoftTokens):
            count += queries
        elif isinstance(piece, StartIds):
            count += len(language.start_ids())
        else:
            count += len(language.tokenize(piece))
    return count


def instruction(
    tokenizer: TextTokenizer,
    config: BridgeConfig,
    previous: str | None,
    names: Sequence[str],
    question: str,
) -> tuple[list[int], list[tuple[int, int]]]:
    """What an instruct Q-Former reads: [CLS], previous question, names of the regions, question,
    and the end_id if it has one.

    Returns the ids and, for each name, the span (start, end) of its tokens, to which the region's
    geometry is added. The previous question loses its beginning where all is longer than
    max_instruction; QuestionError if the rest alone is.
    """
    words = [tokenizer(name) for name in names]
    asked = tokenizer(question) + ([] if config.end_id is None else [config.end_id])
    room = config.max_instruction - 1 - sum(map(len, words)) - len(asked)
    if room < 0:
        raise QuestionError(
            f"the question and its regions' names are {config.max_instruction - room} tokens long"
            f" and the Q-Former reads {config.max_instruction}: ask a shorter question"
        )
    before = tokenizer(previous) if previous else []
    ids = [config.qformer.cls_id, *before[max(0, len(before) - room) :]]
    spans = []
    for word in words:
        spans.append((len(ids), len(ids) + len(word)))
        ids += word
    return ids + asked, spans
