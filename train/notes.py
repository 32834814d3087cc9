"""Notes: words that the soft tokens of a picture are to be like, one word each.

An answer of one word tells a Q-Former little about where to look. Notes tell each soft token what
to say: of nine cells, say, which are meant. They are a scaffold: nothing reads them afterwards, but
the language model that does read the soft tokens finds words there that it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qformer.contracts import LoupeError

SHARPNESS = 16.0  # of a soft token's likeness to the words
NONE = -1  # in place of a word's id


@dataclass(frozen=True)
class NotesConfig:
    """weight: of the notes' loss beside that of the answers. alone: the share of the steps, the
    first ones, in which only notes are learned; the language model is not read then, which is
    several times faster."""

    weight: float = 0.5
    alone: float = 0.0

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise LoupeError(f"notes.weight={self.weight:g} must be above 0: leave out [notes]")
        if not 0 <= self.alone < 1:
            raise LoupeError(
                f"notes.alone={self.alone:g} must lie below 1: at its end the language model learns"
                " to read the soft tokens"
            )

    def beside(self, alone: bool) -> float:
        """What the notes' loss is multiplied by."""
        return 1.0 if alone else self.weight


def likeness(soft: Tensor, words: Tensor) -> Tensor:
    """Compare each soft token with each word's embedding: (..., queries, vocabulary) log
    probabilities. soft: (..., queries, width). words: (vocabulary, width)."""
    alike = F.normalize(soft, dim=-1) @ F.normalize(words, dim=-1).T
    return (SHARPNESS * alike).float().log_softmax(-1)


def notes_loss(soft: Tensor, notes: Sequence[Sequence[int]], words: Tensor) -> Tensor:
    """Measure how far soft tokens (N, queries, width) are from their notes: ids of words, the first
    for the first soft token. A word counts less the more often it is noted, by the root of that:
    where most cells are empty, "no" would drown "yes"."""
    wanted = torch.full(soft.shape[:2], NONE)
    for row, ids in enumerate(notes):
        wanted[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    wanted = wanted.to(soft.device)
    noted = wanted != NONE  # few are, and the vocabulary is wide
    said = likeness(soft[noted], words).gather(-1, wanted[noted][:, None])[:, 0]
    weights = torch.bincount(wanted[noted], minlength=len(words))[wanted[noted]] ** -0.5
    return -(said * weights).sum() / weights.sum()
