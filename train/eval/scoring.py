"""From answers to measures. Each function takes cases and their records, in the same order.

What was not answered is wrong in every measure: no answer equals "no", "the" or a stop."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from train.eval.case import Case
from train.eval.metrics import captions, meteor, vqa
from train.eval.metrics.words import words
from train.eval.stats import Measure
from train.eval.task import Record, Score

YES, NO = "yes", "no"


def text_of(record: Record) -> str:
    """The answer; "" where the model gave none, which is wrong."""
    return str(record.get("answer") or "").strip()


def same(text: str, answer: str) -> bool:
    """Whether an answer, cleaned as for VQA, is one that people gave. Words of which nothing is
    left ("the", "?") are compared as they stand."""
    clean = plain_text(text)
    return clean == plain_text(answer) if clean else bool(text) and text.lower() == answer.lower()


def caption_scores(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, Measure]:
    """CIDEr first; METEOR where Java is."""
    told = [words(text_of(record)) for record in records]
    references = [[words(answer) for answer in case.answers] for case in cases]
    measures = {"CIDEr": captions.cider(told, references)}
    measures |= captions.bleu(told, references)
    measures["ROUGE-L"] = captions.rouge(told, references)
    java = meteor.meteor(told, references)
    return measures if java is None else {**measures, "METEOR": java}


def vqa_scores(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, Measure]:
    return {
        "VQA accuracy": Measure.mean(
            [vqa_score(case, text_of(record)) for case, record in zip(cases, records, strict=True)]
        ),
        "VQA accuracy (LAVIS)": Measure.mean(
            [
                vqa_score(case, text_of(record), "lavis")
                for case, record in zip(cases, records, strict=True)
            ]
        ),
    }


def vqa_score(case: Case, text: str, script: str = "official") -> float:
    """VQA accuracy of one answer; where only how right each answer is was kept, that."""
    known = case.extra.get("answer_scores")
    if known is None:
        return vqa.accuracy(text, case.answers, script)
    return max((float(score) for answer, score in known.items() if same(text, answer)), default=0.0)


def direct_scores(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, Measure]:
    """A-OKVQA's own rule, and VQA's beside it."""
    own = [
        vqa.matches(text_of(record), case.answers)
        for case, record in zip(cases, records, strict=True)
    ]
    return {"accuracy": Measure.mean(own), **vqa_scores(cases, records)}


def plain_text(text: str) -> str:
    """Lowercased, without articles, signs and outer spaces."""
    return vqa.normalise(text).lower()


def exact_scores(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, Measure]:
    """Right where the answer, cleaned as for VQA, is one that people gave."""
    right = [
        any(same(text_of(record), answer) for answer in case.answers)
        for case, record in zip(cases, records, strict=True)
    ]
    return {"accuracy": Measure.mean(right)}


def gqa_scores(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, Measure]:
    """As `exact_scores`, and GQA's own script beside it, which compares the bare texts."""
    own = [
        bool(text) and text in case.answers
        for case, text in zip(cases, map(text_of, records), strict=True)
    ]
    return {**exact_scores(cases, records), "accuracy (GQA's script)": Measure.mean(own)}


def closed_scores(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, Measure]:
    """Score as `exact_scores` does; chance: any answer that these data know, at random."""
    known = {plain_text(case.truth) for case in cases}
    right = [len(known & {plain_text(answer) for answer in case.answers}) for case in cases]
    chance = float(np.mean(right)) / len(known) if known else None
    (exact,) = exact_scores(cases, records).values()
    return {"accuracy": replace(exact, chance=chance)}


def choice_scores(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, Measure]:
    right = [
        text_of(record) == case.truth.strip() for case, record in zip(cases, records, strict=True)
    ]
    chance = float(np.mean([1 / max(1, len(case.choices)) for case in cases])) if cases else None
    return {"accuracy": Measure.mean(right, chance)}


def yes_or_no(answer: str) -> str:
    """POPE's own reading of a free answer: "no" where its first sentence holds the word no or not,
    otherwise "yes"; of no answer "", which its script takes for a yes."""
    if not answer:
        return ""
    first = answer.split(".")[0].replace(",", "").split()
    return NO if {"No", "no", "not"} & set(first) else YES


def yes_no_scores(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, Measure]:
    """Accuracy, and precision, recall and F1 of "yes", and how often "yes" is said."""
    read = [yes_or_no(text_of(record)) for record in records]
    right = [one == case.truth for one, case in zip(read, cases, strict=True)]
    said = np.array([one == YES for one in read], dtype=float)
    real = np.array([case.truth == YES for case in cases], dtype=float)
    f1 = Measure.share(2 * said * real, said + real)
    return {
        "accuracy": Measure.mean(right, 0.5),
        "F1": f1,
        "precision": Measure.share(said * real, said),
        "recall": Measure.share(said * real, real),
        "says yes": Measure.mean(said, float(real.mean()) if len(real) else None),
    }


def consistent(key: str) -> Callable[[Score], Score]:
    """Adds the share of groups (cases that share extra[key]) that are right throughout."""

    def wrap(score: Score) -> Score:
        def scored(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, Measure]:
            measures = score(cases, records)
            right = measures["accuracy"].parts[:, 0]
            groups: dict[str, list[int]] = defaultdict(list)
            for row, case in enumerate(cases):
                groups[str(case.extra.get(key))].append(row)
            hits, tries = np.zeros(len(cases)), np.zeros(len(cases))
            for rows in groups.values():  # counted at the group's first case
                hits[rows[0]], tries[rows[0]] = float(right[rows].all()), 1.0
            return {**measures, "consistency": Measure.share(hits, tries)}

        return scored

    return wrap


def names_in(text: str, names: Sequence[str]) -> set[str]:
    """Which of the names a text holds as words, singular or plural; "hot dog" holds no dog."""
    longest = sorted({name.lower() for name in names}, key=len, reverse=True)
    pattern = rf"(?<![a-z])({'|'.join(map(re.escape, longest))})(?:e?s)?(?![a-z])"
    return set(re.findall(pattern, text.lower())) if longest else set()


def leakage_scores(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, Measure]:
    """How often an answer about a region names what is elsewhere in the picture and not in it. Less
    is better: no answer counts as a leak, lest silence be the best."""
    leaks, own = [], []
    for case, record in zip(cases, records, strict=True):
        ours = {name.lower() for name in case.answers}
        said = names_in(text_of(record), [*ours, *case.extra["elsewhere"]])
        leaks.append(bool(said - ours) or not text_of(record))
        own.append(bool(said & ours))
    return {"leaks": Measure.mean(leaks), "names it": Measure.mean(own)}


def found_scores(cases: Sequence[Case], records: Sequence[Record]) -> dict[str, Measure]:
    """Referring expressions: box IoU above 0.5 (the field's rule), and the mean IoUs. within reach:
    how often any of the proposed areas would have been right; chance: one of them at random."""
    box, region_mask, reach, chance = (
        np.array([float(record.get(name) or 0.0) for record in records])
        for name in ("box_iou", "mask_iou", "reach", "chance")
    )
    return {
        "box IoU > 0.5": Measure.mean(box > 0.5, float(chance.mean()) if len(chance) else None),
        "mean box IoU": Measure.mean(box),
        "mean mask IoU": Measure.mean(region_mask),
        "within reach": Measure.mean(reach > 0.5),
    }
