"""Your own data: pictures in a folder and a JSONL file that says something about each.

    {"image": "a.jpg", "text": "a red boat"}                   or a list of texts: any is learned
    {"image": "a.jpg", "question": "what colour?", "answer": "red"}    or "answers": ["red", ...]
    {"image": "a.jpg", "regions": [{"box": [10, 20, 90, 80]}],
     "conversation": [{"question": "what is region 1?", "answer": "a boat"}]}

What is said may have "notes": "yes no no", a word for each soft token (train/notes.py). A region is
{"box": [x0, y0, x1, y1]}, {"rle": {...}}, {"polygons": [[x, y, ...]]} or
{"mask": "file.png"}. A turn is about the regions that it names ("region 1" is the first), or that
its "regions": [1, 2] lists; if it names none, about those of the turn before, at first all. Where a
line states the "width" and "height" that its regions were drawn on, they are scaled to a picture
that was shrunk since, and those of one that was turned or cropped are counted as bad.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.rle import check_polygons
from train.data.pictures import Gallery
from train.data.sample import Area, BadSampleError, Sample, Tally, Turn, stated_size
from train.data.source import DataConfig, read_lines

SAYS = ("text", "question", "conversation")


def read_folder(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    file = config.inside("data.jsonl", "metadata.jsonl", "train.jsonl")
    gallery = config.gallery("images")
    part = config.one_split(line.get("split") for _, line in read_lines(file) if line)
    for place, line in read_lines(file):
        with tally.row(place):
            if line is None:
                raise BadSampleError("a line is not a JSON object")
            if part is None or line.get("split", part) == part:
                yield sample_of(line, gallery, file.parent, place)


def sample_of(line: dict[str, Any], gallery: Gallery, folder: Path, place: str) -> Sample:
    return Sample(
        id=str(line.get("id", place)),
        picture=gallery[line["image"]],
        areas=tuple(area_of(region, folder, line) for region in line.get("regions", ())),
        turns=turns_of(line),
        dialogue="conversation" in line,
        extra={"split": line["split"]} if "split" in line else {},
    )


def turns_of(line: dict[str, Any]) -> tuple[Turn, ...]:
    """What a line says. Raises BadSampleError, KeyError."""
    everything = tuple(range(len(line.get("regions", ()))))
    if "conversation" in line:
        turns: list[Turn] = []
        for said in line["conversation"]:
            before = turns[-1].areas if turns else everything
            areas, notes = about(said, before), str(said.get("notes", ""))
            turns.append(Turn(said["question"].strip(), answers_of(said), areas, notes=notes))
        return tuple(turns)
    if "question" in line:
        choices = tuple(map(str, line.get("choices", ())))
        question = line["question"].strip()
        if not question:
            raise BadSampleError("a question is empty")
        areas, notes = about(line, everything), str(line.get("notes", ""))
        return (Turn(question, answers_of(line), areas, choices, notes),)
    if "text" in line:
        notes = str(line.get("notes", ""))
        return (Turn("", texts_of(line["text"]), everything, notes=notes),)
    close = [key for key in line if difflib.get_close_matches(key, SAYS, n=1)]
    hint = f"did you misspell {close[0]!r}?" if close else f"one of {', '.join(SAYS)}"
    raise BadSampleError(f"a line says nothing: {hint}")


def answers_of(line: dict[str, Any]) -> tuple[str, ...]:
    return texts_of(line["answers"] if "answers" in line else line["answer"])


def texts_of(value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        raise BadSampleError("an answer is true or false: write it as a word")
    values = value if isinstance(value, list) else [value]
    return tuple(str(text).strip() for text in values)


def about(said: dict[str, Any], before: tuple[int, ...]) -> tuple[int, ...]:
    """The regions a turn is about, counted from 0."""
    if "conversation" not in said and isinstance(said.get("regions"), list):
        listed = said["regions"]
        if listed and all(isinstance(number, int) for number in listed):
            return tuple(number - 1 for number in listed)
    named = dict.fromkeys(int(n) - 1 for n in re.findall(r"\bregion ?(\d+)", said["question"]))
    return tuple(named) or before


def area_of(region: dict[str, Any], folder: Path, line: dict[str, Any]) -> Area:
    """line: the region's, which may state the size of its picture. Raises RegionError."""
    drawn_on = stated_size(line)
    if "box" in region:
        x0, y0, x1, y1 = (float(value) for value in region["box"])
        return Area(box=(x0, y0, x1, y1), drawn_on=drawn_on)
    if "rle" in region:
        return Area(rle=region["rle"])
    if "polygons" in region:
        polygons = tuple(map(tuple, check_polygons(region["polygons"])))
        return Area(polygons=polygons, drawn_on=drawn_on)
    if "mask" in region:
        return Area(file=folder / region["mask"])
    raise BadSampleError("a region needs box, rle, polygons or mask")
