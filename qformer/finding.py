"""Text to region: which of the areas a segmenter proposes fit some words, best first.

A stage-1 model compares each area with the words as BLIP-2 ranks pictures (arXiv 2301.12597,
section 4.4): contrast picks, matching decides. A model that answers is asked what each area is: the
words count as far as its tokens make them likelier than the picture's alone do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .contracts import QuestionError
from .proposals import Everything, Proposal
from .regions import Region
from .retrieval import KEEP, Ranker
from .together import Question, likelihoods
from .view import View

# More areas than are shown for their own sake: the words choose among them.
GENEROUS: dict[str, Any] = {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.7}
# "two dogs", "my cup", "dogs on a bench", "red mugs"
NO_ARTICLE = re.compile(
    r"(the|an?|\d+|one|two|three|four|five|some|many|my|your|his|her|its|our|their|this|that)\b"
    r"|\S*[^s\W]s\b|.*[^s\W]s$",
    re.IGNORECASE,
)
AT_ONCE = 32  # areas read in one pass of the Q-Former
LEAST_QUALITY = 1e-3  # of an area, as a segmenter may put it


@dataclass(frozen=True, eq=False)
class Found:
    """How well one area fits the words. score: of a stage-1 model BLIP-2's match logit plus cosine,
    else the words' mean log-likelihood a token in nats, with the area's tokens less that with the
    picture's alone: below 0 the picture as a whole speaks more for them."""

    proposal: Proposal
    score: float
    itc: float | None = None
    itm: float | None = None

    @property
    def worth(self) -> float:
        """What is ranked by: the score. Where it is a likelihood, which is much the same for a part
        of a thing and the whole of it, with the log of how well the segmenter thinks the area is
        cut: both together say how likely it is that this is the thing."""
        if self.itc is not None:
            return self.score
        return self.score + math.log(min(1.0, max(LEAST_QUALITY, self.proposal.score)))


def find(
    view: View,
    text: str,
    ranker: Ranker | None = None,
    settings: Everything | None = None,
    progress: Callable[[int, int], None] | None = None,
    keep: int = KEEP,
) -> list[Found]:
    """The areas of a picture that fit `text`, best first.

    Proposed by the segmenter: by the text itself where it reads text, else everything it finds
    (settings, progress: see `View.everything`; by default GENEROUS). ranker: a stage-1 model over
    the view's parts, which matches the `keep` areas of highest contrast; None asks the view's
    language model.
    Raises QuestionError for an empty text, RegionError without a segmenter.
    """
    if not text.strip():
        raise QuestionError("the text is empty: say what to look for")
    segmenter = view.assistant.segmenter
    if segmenter is not None and segmenter.capabilities.text:
        proposals = view.find(text)
    else:
        proposals = view.everything(settings or Everything(**GENEROUS), progress)
    return among(view, proposals, text, ranker, keep)


def among(
    view: View,
    proposals: Sequence[Proposal],
    text: str,
    ranker: Ranker | None = None,
    keep: int = KEEP,
) -> list[Found]:
    """Choose the areas that fit `text`, best first; see `find`."""
    if not proposals:
        return []
    if ranker is None:
        found = by_likelihood(view, proposals, text)
    else:
        found = by_matching(view, ranker, proposals, text, keep)
    return sorted(found, key=lambda one: -one.worth)


@torch.no_grad()
def by_matching(
    view: View, ranker: Ranker, proposals: Sequence[Proposal], text: str, keep: int = KEEP
) -> list[Found]:
    """Contrast under every area, then matching under the best `keep`; in no order."""
    ids = ranker.read_text(text)
    text_features = ranker.stage1.text_features(ids, torch.ones_like(ids))
    cosines: list[float] = []
    for start in range(0, len(proposals), AT_ONCE):
        inputs = _inputs(view, proposals[start : start + AT_ONCE])
        features = ranker.stage1.row_features(**inputs)  # (areas, queries, itc_size)
        cosines += torch.einsum("aqd,td->aqt", features, text_features).amax(1)[:, 0].tolist()
    best = sorted(range(len(proposals)), key=lambda index: -cosines[index])[:keep]
    found = []
    for start in range(0, len(best), AT_ONCE):
        part = best[start : start + AT_ONCE]
        inputs = _inputs(view, [proposals[index] for index in part])
        read = ids.expand(len(part), -1)
        logits = ranker.stage1.match(**inputs, input_ids=read, attention_mask=torch.ones_like(read))
        for index, (no, yes) in zip(part, logits.tolist(), strict=True):
            cosine = cosines[index]
            found.append(Found(proposals[index], yes + cosine, cosine, yes - no))
    return found


def _inputs(view: View, proposals: Sequence[Proposal]) -> dict:
    """The Q-Former's arguments for some areas of the picture."""
    regions = [Region(one.region_mask, f"area {n}") for n, one in enumerate(proposals)]
    return view.assistant.bridge.inputs(view.memory, view.rows(regions, None))


@torch.no_grad()
def by_likelihood(view: View, proposals: Sequence[Proposal], text: str) -> list[Found]:
    """The words as the answer to what each area is, against the whole picture's; in no order."""
    suggested = view.assistant.config.suggestions.region
    asked = suggested[0] if suggested else ""  # "": its words for captions
    answer = as_answer(text)
    questions = [Question(view.image, asked, choices=(answer,))]
    questions += [Question(view.image, asked, (one.region_mask,), (answer,)) for one in proposals]
    scores: list[float] = []
    for told in likelihoods(view.assistant, questions, views=[view.apart()]):
        if isinstance(told, Exception):
            raise told
        scores.append(told[0].mean)
    bare, *each = scores
    return [Found(one, score - bare) for one, score in zip(proposals, each, strict=True)]


def as_answer(text: str) -> str:
    """ "the red star", or "red star", as a model says it of a thing it is shown: "a red star"."""
    words = text.strip().rstrip(".?!")
    bare = re.sub(r"^(the|an?)\s+", "", words, flags=re.IGNORECASE)
    if bare == words and (not words or NO_ARTICLE.match(words)):
        return words
    return f"{'an' if bare[0].lower() in 'aeiou' else 'a'} {bare}"
