"""One evaluation: everything is asked of every model in every arm, and written down as it comes.

predictions.jsonl holds a header (what was asked of whom), then a line an answer. A run that is
killed goes on where it stopped; shards of a run are merged by putting their lines together. Scores
are made from these lines alone, so that answers made elsewhere are scored in the same way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from adapters.rle import encode_rle
from qformer.contracts import ImageError, LoupeError, RegionError
from qformer.together import Question
from train.data.readers import read
from train.data.sample import Tally
from train.data.source import DataConfig, read_lines
from train.eval import arms
from train.eval.case import Case, spread, unique
from train.eval.task import Record, Task
from train.eval.tasks import TASKS

PREDICTIONS = "predictions.jsonl"
FORMAT = 1
BATCH = 32
log = logging.getLogger(__name__)
Say = Callable[[int, int], None]


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
    """The cases of a task, and what was wrong with the rest. sha256: of what they ask and of every
    picture's file."""

    all: list[Case]
    tally: Tally
    sha256: str = field(default="")

    def __post_init__(self) -> None:
        self.sha256 = self.sha256 or fingerprint(self.all)


def read_cases(asked: Asked) -> Cases:
    """Raises LoupeError where nothing is left to ask."""
    tally = Tally()
    cases = list(unique(asked.definition.cases(read(asked.data, tally)), tally))
    cases = spread(cases, asked.limit)
    if not cases:
        reason = next(iter(tally.reasons), "it holds nothing this task can ask")
        raise LoupeError(f"{asked.data.path} gives {asked.task} nothing to ask: {reason}")
    return Cases(cases, tally)


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


def in_shard(cases: Sequence[Case], shard: tuple[int, int]) -> list[Case]:
    """Every n-th case. Cases about one picture mostly follow each other; they may part."""
    number, of = shard
    return list(cases[number - 1 :: of])


class Book:
    """predictions.jsonl: what was answered already, and where more is written."""

    def __init__(self, file: Path, header: dict[str, Any]) -> None:
        """Raises LoupeError if the file answers something else."""
        self.file, self.header = file, header
        self.records: list[Record] = []
        self.done: set[tuple[str, str]] = set()
        if file.is_file():
            found, self.records = read_book(file)
            refuse_other(found, header, file)
            self.done = {(record["id"], record["system"]) for record in self.records}
        file.parent.mkdir(parents=True, exist_ok=True)
        # Rewritten whole: a killed run may have left half a line.
        lines = [
            json.dumps(line, ensure_ascii=False) for line in ({"loupe": header}, *self.records)
        ]
        fresh = file.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n", encoding="utf-8")
        fresh.replace(file)

    def write(self, records: Iterable[Record]) -> None:
        with self.file.open("a", encoding="utf-8") as lines:
            for record in records:
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                self.records.append(record)
                self.done.add((record["id"], record["system"]))


def read_book(file: Path) -> tuple[dict[str, Any], list[Record]]:
    """The header ({} where there is none) and the lines, a broken last one left out."""
    header: dict[str, Any] = {}
    records: dict[tuple[str, str], Record] = {}
    for _, line in read_lines(file):
        if line is None:
            continue
        if "loupe" in line:
            header = line["loupe"]
        elif "id" in line and "system" in line:
            records[line["id"], line["system"]] = line
    return header, list(records.values())


def refuse_other(found: dict[str, Any], header: dict[str, Any], file: Path) -> None:
    """Raises LoupeError where a file's header is not the run's."""
    for name, what in (
        ("task", "another task"),
        ("data", "other data"),
        ("models", "another model"),
        ("shard", "another shard"),
        ("limit", "another --limit"),
    ):
        if found.get(name) != header[name]:
            theirs = json.dumps(found.get(name))
            theirs = theirs if len(theirs) < 100 else theirs[:97] + "..."
            raise LoupeError(
                f"{file} holds answers of {what} ({theirs}): give another --out, or delete it"
            )


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
        header = {
            "format": FORMAT, "task": asked.task, "data": self.cases.sha256,
            "source": asdict(asked.data), "limit": asked.limit, "shard": list(asked.shard),
            "models": about,
        }  # fmt: skip
        self.book = Book(out / PREDICTIONS, header)

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
                fitting = ("picture",)
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
        for part in batches(open_cases, self.batch):
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
                for system in self.systems:
                    yield {"id": case.id, "system": system, "left_out": str(error)}
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


def batches(cases: Sequence[Case], size: int) -> Iterator[Sequence[Case]]:
    return (cases[start : start + size] for start in range(0, len(cases), size))


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
    shapes: dict[tuple[int, str], arms.Shown] = {}

    def see(image: torch.Tensor, region_masks: tuple[torch.Tensor, ...]) -> arms.Shown:
        # A picture without regions stays one tensor for all its questions: it is encoded once.
        if arm not in ("question only", "no region", "picture"):
            return arms.ARMS[arm](image, region_masks)
        return shapes.setdefault((id(image), arm), arms.ARMS[arm](image, region_masks))

    questions = []
    for case, (image, region_masks) in cases:
        seen, areas = see(image, region_masks)
        texts = case.texts if way == "match" else names if way == "name" else case.choices
        questions.append(Question(seen, case.question, areas if arm == "regions" else (), texts))
    told = guarded(model, way, questions, task.preset)
    return [
        read_answer(case, image, region_masks, way, found)
        for (case, (image, region_masks)), found in zip(cases, told, strict=True)
    ]


def guarded(model: Any, way: str, questions: Sequence[Question], preset: str) -> list[Any]:
    """A model's answers; where a batch fails, each question by itself."""
    try:
        return _told(model, way, questions, preset)
    except Exception as error:  # the run goes on, whatever one batch does
        if len(questions) > 1:
            return [one for q in questions for one in guarded(model, way, [q], preset)]
        if not isinstance(error, LoupeError):
            log.exception("%s failed", model.name)
        return [error if isinstance(error, LoupeError) else LoupeError(type(error).__name__)]


def _told(model: Any, way: str, questions: Sequence[Question], preset: str) -> list[Any]:
    if way == "write":
        return model.write(questions, preset)
    if way == "name":
        return model.name_it(questions)
    return getattr(model, way)(questions)


def read_answer(
    case: Case, image: torch.Tensor, region_masks: Sequence[torch.Tensor], way: str, told: Any
) -> Record:
    """A model's word as a record."""
    if isinstance(told, LoupeError):
        return {"answer": "", "error": str(told)}
    if way in ("write", "name"):
        return {"answer": choice_in(told, case.choices) if case.choices else told}
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


def choice_in(answer: str, choices: Sequence[str]) -> str:
    """The choice that an answer in free words means: the same words, a letter, or its beginning."""
    clean = answer.strip().strip(".").lower()
    for index, choice in enumerate(choices):
        if clean in (choice.lower(), "abcdefghij"[index], f"({'abcdefghij'[index]})"):
            return choice
    starts = [c for c in choices if clean.startswith(c.lower())]
    return starts[0] if len(starts) == 1 else answer


def found_record(case: Case, truth: Sequence[torch.Tensor], found: torch.Tensor | None) -> Record:
    """How well a found region_mask fits the truth."""
    if found is None or not bool(found.any()):
        return {"answer": "", "box_iou": 0.0, "mask_iou": 0.0}
    real = truth[0]
    union = int((found | real).sum())
    x0, y0, x1, y1 = case.extra.get("box") or arms.box_of(real)
    box = arms.box_of(found)
    across = max(0.0, min(x1, box[2]) - max(x0, box[0]))
    down = max(0.0, min(y1, box[3]) - max(y0, box[1]))
    shared = across * down
    both = (x1 - x0) * (y1 - y0) + (box[2] - box[0]) * (box[3] - box[1]) - shared
    return {
        "answer": json.dumps(list(box)),
        "box_iou": round(shared / both, 5),
        "mask_iou": round(int((found & real).sum()) / max(1, union), 5),
        "rle": encode_rle(found),
    }
