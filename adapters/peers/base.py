"""What a peer is: another model, asked as Loupe's are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from qformer.contracts import LoupeError
from qformer.together import Likelihood, Question

Batch = list[str | LoupeError]


class Peer(Protocol):
    """A method for each of `ways`; a peer need not have the others.

    What cannot be asked about one question is returned in its place, so that the others are
    answered all the same.
    """

    name: str
    ways: tuple[str, ...]  # of "write", "choose", "match", "retrieve"
    sees_regions: bool

    def write(self, questions: Sequence[Question], preset: str) -> Batch:
        """Answers; a caption where the question is "". preset: "caption" or "vqa"."""
        ...

    def choose(self, questions: Sequence[Question]) -> list[list[Likelihood] | LoupeError]:
        """How likely each of a question's choices is."""
        ...

    def match(self, questions: Sequence[Question]) -> list[list[float] | LoupeError]:
        """How well each of `choices` fits the picture, in logits: above 0 it fits. Models that only
        compare (CLIP) give a similarity, whose order alone means something."""
        ...

    def image_features(self, images: Sequence[Tensor]) -> Tensor:
        """Give images as (images, vectors, width), unit length; a text is as near as the nearest
        vector. A peer without vectors has `rerank` alone, which then reads every pair."""
        ...

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """(texts, width), unit length."""
        ...

    def rerank(self, image: Tensor, texts: Sequence[str]) -> Tensor:
        """Give the match logit of one picture with each text, (texts,)."""
        ...

    def about(self, preset: str) -> dict[str, Any]:
        """What a reader of the scores should know: how it writes, at what address it is."""
        ...
