"""The judge's table: what each row is made of, and what it is to reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from train.eval.case import Case
from train.photos.asking import (
    NO_REGION,
    TRUE_MASK,
    USUAL,
    WRONG_REGION,
    Answered,
    Ask,
    balanced,
    calibration_error,
    majority,
    share_right,
)
from train.photos.judged import LARGE
from train.photos.sentences import caption_measures
from train.photos.wordings import TEST

OTHER_WORDINGS = "within .05 of the usual"
TARGETS = {
    "captions: BLEU-4": 0.213,
    "captions: CIDEr": 0.55,
    "retrieval: text to picture R@1": 0.20,
    "retrieval: picture to text R@1": 0.25,
    "what: COCO's 80 classes": 0.65,
    "what: COCO's, over 2 % of the picture": 0.80,
    "what: grocery": 0.75,
    "what: clothing": 0.75,
    "exist: as POPE, coco_by": 0.80,
    "colour: coco_by": 0.75,
    "count: to four": 0.55,
    "find: RefCOCO's expressions": 0.35,
    "segmenter: one click": 0.55,
    "segmenter: three clicks": 0.70,
    "segmenter: box": 0.75,
}


@dataclass
class Row:
    """One line of the table; of n facts. more: further figures."""

    name: str
    n: int
    figure: float
    majority: float | None = None
    no_region: float | None = None
    wrong_region: float | None = None
    more: dict[str, float] = field(default_factory=dict)

    @property
    def target(self) -> float | None:
        return TARGETS.get(self.name)


@dataclass
class Report:
    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def rows_of(name: str, found: Sequence[Answered]) -> list[Row]:
    """The row of one kind of facts; of things, a second of the large ones."""
    plain = [one for one in found if not one.ask.wording]
    ways = {way: [one for one in plain if one.ask.way == way]
            for way in (USUAL, TRUE_MASK, NO_REGION, WRONG_REGION)}  # fmt: skip
    usual = ways[USUAL]
    sure = [one for one in usual if not one.unsure]
    more = {
        "balanced": balanced(usual),
        "calibration error": calibration_error(usual),
        "unsure": 1 - len(sure) / len(usual) if usual else math.nan,
        "right where sure": share_right(sure),
        "word for word": mean([one.ask.fact.truth == one.answer.lower() for one in usual]),
    }
    if ways[TRUE_MASK]:
        more["true mask"] = share_right(ways[TRUE_MASK])
        masked = [one for one in ways[TRUE_MASK] if one.ask.fact.share > LARGE]
        more["true mask, over 2 %"] = share_right(masked)
    rows = [
        Row(
            name, len(usual), share_right(usual), majority(usual),
            share_right(ways[NO_REGION]) if ways[NO_REGION] else None,
            share_right(ways[WRONG_REGION]) if ways[WRONG_REGION] else None, more,
        )
    ]  # fmt: skip
    if name.startswith("what: COCO's 80"):
        large = [one for one in usual if one.ask.fact.share > LARGE]
        rows.append(
            Row("what: COCO's, over 2 % of the picture", len(large), share_right(large),
                majority(large))
        )  # fmt: skip
    return rows


def wording_rows(found: Sequence[Answered]) -> list[Row]:
    """Of each type of question, the six wordings that training never saw beside the usual one, of
    the same facts."""
    rows = []
    for kind in TEST:
        others = [one for one in found if one.ask.wording and one.ask.fact.kind == kind]
        if not others:
            continue
        asked = {one.ask.fact for one in others}
        usual = [one for one in found if one.ask.fact in asked and one.ask == Ask(one.ask.fact)]
        more = {"usual": share_right(usual)}
        for wording in TEST[kind]:
            more[wording] = share_right([one for one in others if one.ask.wording == wording])
        rows.append(Row(f"other wordings: {kind}", len(others), share_right(others), more=more))
    return rows


def caption_wording_row(
    asked: Sequence[Case], usual: Sequence[str], told_so: dict[str, list[str]]
) -> Row:
    def cider(texts: Sequence[str]) -> float:
        return caption_measures(asked, texts)["CIDEr"]

    more = {"usual": cider(usual[: len(asked)])}
    more |= {wording: cider(texts) for wording, texts in told_so.items()}
    figure = mean(list(more.values())[1:])
    return Row("other wordings: describe (CIDEr)", len(asked) * len(told_so), figure, more=more)


def told(one: Answered) -> dict[str, Any]:
    fact = one.ask.fact
    return {
        "row": fact.row, "image": fact.image, "way": one.ask.way,
        "question": fact.words(one.ask.wording), "answer": one.answer, "truth": fact.truth,
        "right": one.right, "confidence": round(one.confidence, 4), "share": round(fact.share, 4),
    }  # fmt: skip


def number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def table(report: Report) -> str:
    lines = [
        "| what | n | figure | target | majority | no region | wrong region | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        more = ", ".join(f"{k} {number(v)}" for k, v in row.more.items() if not math.isnan(v))
        target = number(row.target) or (OTHER_WORDINGS if "other wordings" in row.name else "")
        cells = [row.name, str(row.n), number(row.figure), target]
        cells += [number(v) for v in (row.majority, row.no_region, row.wrong_region)]
        lines.append(f"| {' | '.join([*cells, more])} |")
    lines += ["", "Not measured: what: ImageNet's 1,000 (no photo is held back)."]
    lines += [f"Left out: {why}" for why in report.skipped]
    return "\n".join(lines)
