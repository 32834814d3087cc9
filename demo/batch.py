"""`loupe ask --batch`: questions as JSON lines in, answers as JSON lines out.

Also the one place where a region as a user writes it ({"points"}, {"box"} or {"mask"}) becomes a
Region.
"""

from __future__ import annotations

import difflib
import json
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters import texts
from adapters.coco import read_region
from adapters.images import load_image
from demo.arguments import shown
from demo.commands.common import settings_used
from qformer import together
from qformer.assistant import Assistant
from qformer.console import progress
from qformer.contracts import LoupeError, QuestionError, RegionError
from qformer.regions import Region
from qformer.together import Question
from qformer.view import View

TOGETHER = 32  # questions answered at once
KEPT = 64  # pictures
KEYS = ("id", "image", "question", "regions")
REGION_KEYS = ("points", "box", "mask")

log = logging.getLogger(__name__)


def region(view: View, wanted: Any, number: int, folder: Path = Path()) -> Region:
    """Region `number` as the user describes it. RegionError where that describes none.

    wanted: {"points": [[x, y, 1 or 0], ...]}, {"box": [x0, y0, x1, y1]}, both, or
    {"mask": file} (see adapters/coco.py); files are looked up in `folder`, then in the current one.
    """
    return regions(view, wanted, number, folder)[0]


def regions(
    view: View, wanted: Any, number: int, folder: Path = Path(), every: bool = False
) -> list[Region]:
    """Make the Regions that `region` chooses from; every: all readings of it, best first."""
    if not isinstance(wanted, dict) or not wanted or not set(wanted) <= set(REGION_KEYS):
        raise RegionError(f'a region is {{"points"}}, {{"box"}} or {{"mask"}}, not {shown(wanted)}')
    name = f"region {number}"
    if "mask" in wanted:
        if len(wanted) > 1 or not isinstance(wanted["mask"], str):
            raise RegionError('{"mask": file} stands alone and names a file')
        wanted = read_region(find(wanted["mask"], folder), view.size)
        if not isinstance(wanted, dict):
            return [view.region(wanted, name)]
    points = wanted.get("points", ())
    if not isinstance(points, Sequence) or not all(is_row(point, 3) for point in points):
        raise RegionError(f'"points" is a list of [x, y, 1 or 0], not {shown(points)}')
    box = wanted.get("box")
    if box is not None and not is_row(box, 4):
        raise RegionError(f'"box" is [x0, y0, x1, y1], not {shown(box)}')
    found = view.segment([tuple(point) for point in points], None if box is None else tuple(box))
    for warning in found.warnings:
        print(f"loupe: note: {warning}", file=sys.stderr)
    scores = found.scores.tolist()
    if not every:
        return [view.region(found.region_masks[0], name, scores[0])]
    return [
        view.region(region_mask, f"{name} reading {reading}", score)
        for reading, (region_mask, score) in enumerate(
            zip(found.region_masks, scores, strict=True), 1
        )
        if region_mask.any()
    ]


def described(one: Region) -> dict:
    """A region as answers report it: box in pixels, area in pixels, the segmenter's score."""
    score = None if one.score is None else round(one.score, 4)
    return {"box": list(one.box), "area": one.area, "score": score}


def is_row(values: Any, length: int) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) == length
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    )


def find(name: str, folder: Path) -> Path:
    beside = folder / name
    return beside if beside.exists() else Path(name)


def run(source: str, build: Callable[[], Assistant]) -> int:
    """Answer every line, in order; a bad one yields {"id", "error"} and the run goes on."""
    lines, folder = read(source)
    asked = [parse(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    assistant = build()
    failed = 0
    for done, answer in enumerate(answers(assistant, asked, folder), 1):
        failed += "error" in answer
        print(json.dumps(answer, ensure_ascii=False), flush=True)
        text = f"{done}/{len(asked)} answered" + (f", {failed} failed" if failed else "")
        progress(text, done, len(asked), every=100)
    return 0


def read(source: str) -> tuple[list[str], Path]:
    """The lines, and the folder their files are looked up in."""
    if source == "-":
        return sys.stdin.read().split("\n"), Path()
    try:
        return texts.read_text(Path(source)).split("\n"), Path(source).parent
    except FileNotFoundError:
        raise LoupeError(f"there is no file {source}: check the path") from None
    except UnicodeDecodeError:
        raise LoupeError(f"{source} is not a UTF-8 text of JSON lines") from None
    except OSError as error:
        raise LoupeError(f"{source} cannot be read: {error.strerror}") from None


def parse(number: int, line: str) -> dict:
    """One line, checked: {"id", "image", "question", "regions"} or {"id", "error"}.

    A line without an id is known by its number, from 1.
    """
    try:
        values = texts.parse_json(line)
    except ValueError:
        return {"id": number, "error": f"line {number} is not JSON"}
    if not isinstance(values, dict):
        return {"id": number, "error": f"line {number} is not a JSON object"}
    values.setdefault("id", number)
    for key in values.keys() - set(KEYS):  # a typo must not ask about the whole picture in silence
        if near := difflib.get_close_matches(key, KEYS, n=1, cutoff=0.75):
            return {"id": values["id"], "error": f"unknown key {key!r}; did you mean {near[0]!r}?"}
    for key in ("image", "question"):
        if not isinstance(values.get(key), str):
            return {"id": values["id"], "error": f'"{key}" is missing or not a text'}
    if not isinstance(values.setdefault("regions", []), list):
        return {"id": values["id"], "error": '"regions" is not a list'}
    return values


def answers(assistant: Assistant, asked: list[dict], folder: Path) -> Iterator[dict]:
    """The answers in the order of the lines, TOGETHER at a time. A picture is encoded once for all
    lines about it, as long as no more than KEPT others came between."""
    views: OrderedDict[str, View | LoupeError] = OrderedDict()
    for start in range(0, len(asked), TOGETHER):
        begun = time.perf_counter()
        part = [ready(assistant, one, folder, views) for one in asked[start : start + TOGETHER]]
        answer_together(assistant, part)
        seconds = round((time.perf_counter() - begun) / len(part), 4)
        used = settings_used(assistant)
        for line in part:
            if line.error is not None:
                yield {"id": line.id, "error": line.error}
                continue
            regions = [described(one) for one in line.regions]
            yield {"id": line.id, "answer": line.answer, "regions": regions, "seconds": seconds,
                   **used}  # fmt: skip
        while len(views) > KEPT:
            views.popitem(last=False)


@dataclass
class Line:
    """A question on its way. view, regions: what it is about; error: why it has no answer."""

    id: Any
    question: str = ""
    view: View | None = None
    regions: Sequence[Region] = ()
    answer: str = ""
    error: str | None = None

    def fail(self, error: Exception) -> None:
        """Take note, and leave the others alone."""
        if isinstance(error, LoupeError):
            self.error = str(error)
        else:
            log.error("line %r failed", self.id, exc_info=error)
            self.error = f"failed: {type(error).__name__}"


def ready(
    assistant: Assistant, one: dict, folder: Path, views: OrderedDict[str, View | LoupeError]
) -> Line:
    """A line with its picture read and its regions found. views: of the pictures met last."""
    line = Line(one["id"], error=one.get("error"))
    if line.error is not None:
        return line
    try:
        if not one["question"].strip():
            raise QuestionError("the question is empty: type one")
        name = one["image"]
        if name not in views:
            views[name] = opened(assistant, find(name, folder))
        views.move_to_end(name)
        view = views[name]
        if isinstance(view, LoupeError):
            raise view
        line.question, line.view = one["question"], view
        line.regions = [
            region(view, wanted, n, folder) for n, wanted in enumerate(one["regions"], 1)
        ]
    except Exception as error:  # the run goes on, whatever one line does
        line.fail(error)
    return line


def opened(assistant: Assistant, path: Path) -> View | LoupeError:
    """The picture's View, not yet encoded, or what is wrong with it; either way it is read once."""
    try:
        return View(assistant, load_image(path))
    except LoupeError as error:
        return error


def answer_together(assistant: Assistant, lines: Sequence[Line]) -> None:
    """Answer the lines that can be, as `View.ask` would."""
    asked = [(line, line.view) for line in lines if line.error is None and line.view is not None]
    views = {id(view): view for _, view in asked}

    def ask(some: Sequence[tuple[Line, View]]) -> list[str | LoupeError]:
        questions = [
            Question(view.image, line.question, tuple(one.region_mask for one in line.regions))
            for line, view in some
        ]
        return together.answers(assistant, questions, views=list(views.values()))

    for (line, _), told in zip(asked, together.in_spite(ask, asked), strict=True):
        if isinstance(told, Exception):
            line.fail(told)
        else:
            line.answer = told
