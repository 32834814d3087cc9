"""One evaluation: everything is asked of every model in every arm, and written down as it comes.

A run that is killed goes on where it stopped, and shards merge, for all is in its book.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch

from adapters.rle import encode_rle
from qformer.contracts import ImageError, LoupeError, RegionError
from qformer.proposals import box_around
from qformer.together import Question, in_spite
from train.data.readers import read
from train.data.sample import Tally
from train.data.source import DataConfig
from train.eval import arms
from train.eval.book import FORMAT, PREDICTIONS, Book
from train.eval.case import Case, spread, unique
from train.eval.task import Record, Task
from train.eval.tasks import TASKS

BATCH = 64
UNSEEN = "a picture is missing or cannot be read"
log = logging.getLogger(__name__)
Say = Callable[[int, int], None]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Asked:
    """What a run asks: a task, its data, and which share of it. shard: (number from 1, of)."""

    task: str
    data: DataConfig
    limit: int = 0
    shard: tuple[int, int] = (1, 1)

    @property
    def definition(self) -> Task:
        return TASKS[self.task]


@dataclass
class Cases:
    """The cases of a task. left_out: what was wrong with the rest, reason -> {"cases", "examples"}.
    sha256: of what they ask and of every picture's file."""

    all: list[Case]
    left_out: dict[str, dict[str, Any]]
    sha256: str


def read_cases(asked: Asked) -> Cases:
    """Raises LoupeError where nothing is left to ask."""
    cases, tally = list_cases(asked)
    left_out = {
        reason: {"cases": count, "examples": tally.examples[reason]}
        for reason, count in tally.reasons.items()
    }
    return Cases(cases, left_out, fingerprint(cases))


def list_cases(asked: Asked) -> tuple[list[Case], Tally]:
    """List the cases that `read_cases` reads, without touching a picture."""
    tally = Tally()
    cases = list(unique(asked.definition.cases(read(asked.data, tally)), tally))
    cases = spread(cases, asked.limit)
    if not cases:
        reason = next(iter(tally.reasons), "it holds nothing this task can ask")
        raise LoupeError(f"{asked.data.path} gives {asked.task} nothing to ask: {reason}")
    return cases, tally


def fingerprint(cases: Iterable[Case]) -> str:
    """SHA-256 of what is asked and of the pictures, wherever the files lie."""
    total, pictures = hashlib.sha256(), {}
    for case in cases:
        key = case.picture.key
        if key not in pictures:
            try:
                pictures[key] = case.picture.digest()
            except ImageError:
                pictures[key] = "missing"
        areas = [[area.box, area.rle, area.polygons] for area in case.areas]
        values = [case.id, case.question, case.answers, case.choices, areas, pictures[key]]
        total.update(json.dumps(values, sort_keys=True, default=str).encode())
    return total.hexdigest()


def in_shard(cases: Sequence[Item], shard: tuple[int, int]) -> list[Item]:
    """Every n-th case. Cases about one picture mostly follow each other; they may part."""
    number, of = shard
    return list(cases[number - 1 :: of])


def header_of(asked: Asked, cases: Cases, about: dict[str, Any]) -> dict[str, Any]:
    """What was asked of whom. about: what identifies each model."""
    return {
        "format": FORMAT, "task": asked.task, "data": cases.sha256, "source": asdict(asked.data),
        "limit": asked.limit, "shard": list(asked.shard), "models": about,
        "left_out": cases.left_out,
    }  # fmt: skip


class Run:
    """Puts a task's cases to models. models: by name, see models.py."""

    def __init__(
        self,
        asked: Asked,
        models: dict[str, Any],
        out: Path,
        about: dict[str, Any],
        chosen_arms: Sequence[str] = (),
        batch: int = BATCH,
        say: Say = lambda done, total: None,
    ) -> None:
        """about: what identifies each model. chosen_arms: all that fit, if none."""
        self.asked, self.task = asked, asked.definition
        self.models, self.batch, self.say = models, batch, say
        self.cases = read_cases(asked)
        self.names = tuple(sorted({case.truth for case in self.cases.all}))
        self.systems = self._systems(chosen_arms)
        self.book = Book(
            out / PREDICTIONS,
            header_of(asked, self.cases, about),
            in_shard([*enumerate(self.cases.all)], asked.shard),
        )

    def _systems(self, chosen: Sequence[str]) -> dict[str, tuple[Any, str, str]]:
        """Name -> (model, arm, way). Raises LoupeError for a model that cannot be asked."""
        systems = {}
        for name, model in self.models.items():
            way = next((way for way in self.task.ways if way in model.ways), None)
            if way is None:
                raise LoupeError(
                    f"{name} can {', '.join(model.ways)}, and {self.asked.task} needs one that can"
                    f" {' or '.join(self.task.ways)}: choose another model or task"
                )
            fitting = arms.arms_for(self.task.regions, model.sees_regions)
            if way == "find":
                fitting = arms.FINDING
            for arm in fitting:
                if not chosen or arm in chosen:
                    systems[f"{name}: {arm}"] = (model, arm, way)
        if not systems:
            raise LoupeError(f"none of the arms {', '.join(chosen)} fits {self.asked.task}")
        return systems

    def answer(self) -> list[Record]:
        """Ask what is not answered yet; all records."""
        mine = in_shard(self.cases.all, self.asked.shard)
        open_cases = [
            case for case in mine if any((case.id, s) not in self.book.done for s in self.systems)
        ]
        done = len(mine) - len(open_cases)
        for part in batches(open_cases, self.batch, lambda case: case.picture.key):
            self.book.write(self._batch(part))
            done += len(part)
            self.say(done, len(mine))
        return self.book.records

    def _batch(self, cases: Sequence[Case]) -> Iterator[Record]:
        shown: list[tuple[Case, arms.Shown, int | None]] = []
        images = Pictures()
        for case in cases:
            try:
                image = images.load(case)
                region_masks = case.region_masks((image.shape[0], image.shape[1]))
            except (ImageError, RegionError) as error:
                reason = UNSEEN if isinstance(error, ImageError) else str(error)
                why = {"left_out": reason, "error": str(error)}
                yield from ({"id": case.id, "system": system, **why} for system in self.systems)
                continue
            area = sum(int(one.sum()) for one in region_masks) if region_masks else None
            shown.append((case, (image, region_masks), area))
        for system, (model, arm, way) in self.systems.items():
            pending = [one for one in shown if (one[0].id, system) not in self.book.done]
            if not pending:
                continue
            start = time.perf_counter()
            seen = [(case, seen) for case, seen, _ in pending]
            answers = ask(model, way, arm, seen, self.task, self.names)
            seconds = round((time.perf_counter() - start) / len(pending), 5)
            for (case, _, area), found in zip(pending, answers, strict=True):
                record = {"id": case.id, "system": system, **found, "seconds": seconds}
                yield record if area is None else {**record, "area": area}


def batches(
    items: Sequence[Item], size: int, picture: Callable[[Item], Hashable]
) -> Iterator[list[Item]]:
    """Yield at most `size` at once. What is asked about one picture in a row stays together where
    it fits, so that the picture is read once."""
    batch: list[Item] = []
    for _, group in groupby(items, picture):
        together = list(group)
        if batch and len(batch) + len(together) > size:
            yield batch
            batch = []
        batch += together
        while len(batch) >= size:
            yield batch[:size]
            batch = batch[size:]
    if batch:
        yield batch


class Pictures(OrderedDict[str, torch.Tensor | ImageError]):
    """The pictures of one batch, each read once, however many questions are about it."""

    def load(self, case: Case) -> torch.Tensor:
        key = case.picture.key
        if key not in self:
            try:
                self[key] = case.picture.load()
            except ImageError as error:
                self[key] = error
        found = self[key]
        if isinstance(found, ImageError):
            raise found
        return found


def ask(
    model: Any,
    way: str,
    arm: str,
    cases: Sequence[tuple[Case, arms.Shown]],
    task: Task,
    names: tuple[str, ...] = (),
) -> list[Record]:
    """What a model says to each case: {"answer"} with "scores" of choices, or {"error"}.

    names: all that a thing may be called, for a model that only names things.
    """
    greys: dict[tuple[int, ...], arms.Shown] = {}  # one of each size, which is encoded once
    questions = []
    for case, (image, region_masks) in cases:
        if arm == "question only":
            size = tuple(image.shape)
            seen, areas = greys.setdefault(size, arms.grey(image, ()))
        else:
            seen, areas = arms.ARMS[arm](image, region_masks)
        texts = case.texts if way == "match" else names if way == "name" else case.choices
        words = "" if arm == "no words" else case.question
        questions.append(Question(seen, words, areas if arm == "regions" else (), texts))
    told = guarded(model, way, questions, task.preset)
    return [
        read_answer(case, image, region_masks, way, found, task)
        for (case, (image, region_masks)), found in zip(cases, told, strict=True)
    ]


def guarded(model: Any, way: str, questions: Sequence[Question], preset: str) -> list[Any]:
    """A model's answers; where a batch fails, each question by itself."""
    told: list[Any] = in_spite(lambda some: _told(model, way, some, preset), questions)
    for index, one in enumerate(told):
        if isinstance(one, Exception) and not isinstance(one, LoupeError):
            log.error("%s failed", model.name, exc_info=one)
            told[index] = LoupeError(type(one).__name__)
    return told


def _told(model: Any, way: str, questions: Sequence[Question], preset: str) -> list[Any]:
    if way == "write":
        return model.write(questions, preset)
    if way == "name":
        return model.name_it(questions)
    return getattr(model, way)(questions)


def read_answer(
    case: Case,
    image: torch.Tensor,
    region_masks: Sequence[torch.Tensor],
    way: str,
    told: Any,
    task: Task,
) -> Record:
    """A model's word as a record."""
    if isinstance(told, LoupeError):
        return {"answer": "", "error": str(told)}
    if way in ("write", "name"):
        return {"answer": task.read(told, case)}
    if way == "find":
        return found_record(case, region_masks, told)
    if way == "choose":
        scores = [one.total for one in told]
        best = max(range(len(scores)), key=scores.__getitem__)
        tokens = [one.tokens for one in told]
        rounded = [round(score, 5) for score in scores]
        return {"answer": case.choices[best], "scores": rounded, "tokens": tokens}
    if len(told) == 1:  # one text, which fits or not; the choices are "true" and "false"
        best = 0 if told[0] > 0 else 1
    else:
        best = max(range(len(told)), key=told.__getitem__)
    return {"answer": case.choices[best], "scores": [round(score, 5) for score in told]}


def found_record(
    case: Case, truth: Sequence[torch.Tensor], found: Sequence[torch.Tensor]
) -> Record:
    """How well the first of the found region_masks fits the truth; how well the fittest does
    ("reach"), and how many do ("chance": of any at random); and the whole picture."""
    real = truth[0]
    height, width = real.shape
    stated = case.extra.get("box")  # an Area
    target = box_around(real) if stated is None else stated.on((height, width)).box
    share = float(real.sum()) / (height * width)
    whole = [box_iou(target, (0, 0, width, height)), share]
    found = [one for one in found if bool(one.any())]
    if not found:
        return {"answer": "", "box_iou": 0.0, "mask_iou": 0.0, "reach": 0.0, "chance": 0.0,
                "whole": _rounded(whole)}  # fmt: skip
    fits = [box_iou(target, box_around(one)) for one in found]
    union = int((found[0] | real).sum())
    return {
        "answer": json.dumps(list(box_around(found[0]))),
        "box_iou": round(fits[0], 5),
        "mask_iou": round(int((found[0] & real).sum()) / union, 5),
        "reach": round(max(fits), 5),
        "chance": round(sum(fit > 0.5 for fit in fits) / len(fits), 5),
        "whole": _rounded(whole),
        "rle": encode_rle(found[0]),
    }


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes, x0, y0, x1, y1."""
    across = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return across * down / (sum(areas) - across * down)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 5) for value in values]
