"""Facts put to a model as a user would put them: one click each, the words as they are typed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from adapters.images import load_image
from qformer.assistant import Assistant
from qformer.contracts import LoupeError
from qformer.together import Question, answers, likelihoods
from qformer.view import View
from train.asks import lead
from train.eval.metrics.vqa import normalise
from train.eval.scoring import yes_or_no
from train.photos.colours import inner
from train.photos.judged import Fact
from train.photos.regions import area

# How a fact is asked: as users do, with the true mask in place of the click's, without a region,
# and with the mask of another thing of the photo.
USUAL, TRUE_MASK, NO_REGION, WRONG_REGION = "usual", "true mask", "no region", "wrong region"
PHOTOS, QUESTIONS = 8, 24  # at once
BINS = 10
UNSURE = re.compile(
    r"^i (can'?t|cannot) tell\W*(but )?(perhaps|maybe|it may be)?\W*", re.IGNORECASE
)
LEAD = re.compile(r"^(this|it|that|there|here)( is|'s|s) ", re.IGNORECASE)
Say = Callable[..., None]  # a line of progress; True: it must be shown


@dataclass(frozen=True)
class Ask:
    fact: Fact
    way: str = USUAL
    wording: str = ""  # "": the usual one


@dataclass(frozen=True)
class Answered:
    """confidence: how likely the model finds that it is right (the geometric mean of the answer's
    tokens' probabilities, its end included, or what its checkpoint makes of that); nan where it was
    not asked for. hedged: whether the chat would say that it is not sure."""

    ask: Ask
    answer: str
    confidence: float = math.nan
    hedged: bool = False

    @property
    def unsure(self) -> bool:
        return self.hedged or bool(UNSURE.match(self.answer))

    @property
    def right(self) -> bool:
        fact = self.ask.fact
        if fact.kind in ("exist", "statement"):
            return yes_or_no(self.answer.lower()) == fact.truth
        return said(self.answer) in fact.right


def said(answer: str) -> str:
    """The name in an answer: "I can't tell, perhaps a dog." -> "dog"."""
    return normalise(LEAD.sub("", UNSURE.sub("", answer.strip())).rstrip(".!"))


def middle(region_mask: Tensor) -> tuple[float, float]:
    """(x, y) in pixels: a point that lies as deep inside a mask as any, where people click."""
    left = region_mask.numpy()
    while (fewer := inner(left)).any():
        left = fewer
    ys, xs = np.nonzero(left)
    nearest = np.hypot(xs - xs.mean(), ys - ys.mean()).argmin()
    return float(xs[nearest]) + 0.5, float(ys[nearest]) + 0.5


class Photo:
    """One photo of a chunk, read once for all that is asked of it."""

    def __init__(self, assistant: Assistant, file: Path) -> None:
        self.view = View(assistant, load_image(file))
        self._clicks: dict[str, Tensor] = {}

    def region_masks(self, ask: Ask) -> tuple[Tensor, ...]:
        """What an ask is about. Raises RegionError for a click that finds nothing."""
        regions = ask.fact.wrong if ask.way == WRONG_REGION else ask.fact.region
        if ask.way == NO_REGION or not regions:
            return ()
        masks = tuple(area(one).region_mask(self.view.size) for one in regions)
        if ask.way != USUAL or not ask.fact.clicked:
            return masks
        key = str(regions)
        if key not in self._clicks:
            self._clicks[key] = self.view.click(*middle(masks[0])).region_mask
        return (self._clicks[key],)


def ask_all(assistant: Assistant, asks: Sequence[Ask], folder: Path, say: Say) -> list[Answered]:
    """The answers, in another order. Clicked facts are left out where there is no segmenter."""
    if assistant.segmenter is None:
        asks = [ask for ask in asks if not (ask.fact.clicked and ask.way == USUAL)]
    by_photo: dict[str, list[Ask]] = {}
    for ask in asks:
        by_photo.setdefault(ask.fact.image, []).append(ask)
    images, found = list(by_photo), list[Answered]()
    for start in range(0, len(images), PHOTOS):
        chunk = images[start : start + PHOTOS]
        photos = {image: Photo(assistant, folder / image) for image in chunk}
        View.encode_together([photo.view for photo in photos.values()])
        here = [ask for image in chunk for ask in by_photo[image]]
        for first in range(0, len(here), QUESTIONS):
            found += answer(assistant, here[first : first + QUESTIONS], photos)
        say(f"{len(found)} of {len(asks)} questions")
    return found


def answer(assistant: Assistant, asks: Sequence[Ask], photos: dict[str, Photo]) -> list[Answered]:
    """A batch of questions about photos that were read."""
    questions: list[Question] = []
    good: list[Ask] = []
    found: list[Answered] = []
    for ask in asks:
        photo = photos[ask.fact.image]
        try:
            masks = photo.region_masks(ask)
        except LoupeError:
            found.append(Answered(ask, ""))
            continue
        good.append(ask)
        questions.append(Question(photo.view.image, ask.fact.words(ask.wording), masks))
    views = [photo.view for photo in photos.values()]
    told = [
        "" if isinstance(a, LoupeError) else a for a in answers(assistant, questions, views=views)
    ]
    sure = [n for n, a in enumerate(good) if a.way == USUAL and not a.wording and told[n]]
    before = lead(assistant.language)  # the answer's first word as it was written
    again = [replace(questions[n], choices=(before + told[n],)) for n in sure]
    heard = [Answered(a, text) for a, text in zip(good, told, strict=True)]
    for n, likely in zip(sure, likelihoods(assistant, again, views=views), strict=True):
        if not isinstance(likely, LoupeError):
            heard[n] = with_confidence(heard[n], math.exp(likely[0].mean), assistant)
    return found + heard


def with_confidence(one: Answered, likelihood: float, assistant: Assistant) -> Answered:
    """An answer with the chance that it is right, where the checkpoint knows how to tell it."""
    known = getattr(assistant.config, "confidence", None)
    if known is None:
        return replace(one, confidence=likelihood)
    chance = known.of(likelihood)
    return replace(one, confidence=chance, hedged=chance < known.least)


def majority(found: Sequence[Answered]) -> float:
    """What the most frequent truth alone would get."""
    counts = Counter(one.ask.fact.truth for one in found)
    return counts.most_common(1)[0][1] / len(found) if found else math.nan


def share_right(found: Sequence[Answered]) -> float:
    return sum(one.right for one in found) / len(found) if found else math.nan


def balanced(found: Sequence[Answered]) -> float:
    """The mean over truths of how often each is got right."""
    by_truth: dict[str, list[Answered]] = {}
    for one in found:
        by_truth.setdefault(one.ask.fact.truth, []).append(one)
    return float(np.mean([share_right(ones) for ones in by_truth.values()])) if found else math.nan


def calibration_error(found: Sequence[Answered]) -> float:
    """Expected calibration error (Guo et al. 2017) over ten bins of equal width."""
    known = [one for one in found if not math.isnan(one.confidence)]
    bins: dict[int, list[Answered]] = {}
    for one in known:
        bins.setdefault(min(BINS - 1, int(one.confidence * BINS)), []).append(one)
    gaps = (
        abs(share_right(ones) - sum(one.confidence for one in ones) / len(ones)) * len(ones)
        for ones in bins.values()
    )
    return sum(gaps) / len(known) if known else math.nan
