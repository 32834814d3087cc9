"""predictions.jsonl, from which a run is resumed, merged, compared and scored again.

A header says what was asked of whom. Then stands a line for each case with all that scoring needs
of it, and a line for each answer, written as it comes. Neither the data nor a picture is needed to
read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from adapters.files import whole_file
from qformer.contracts import ImageError, LoupeError
from train.data.source import read_lines
from train.eval.case import Case
from train.eval.task import Record

PREDICTIONS = "predictions.jsonl"
FORMAT = 2
Placed = tuple[int, Case]  # a case, and which of the whole run's it is


@dataclass(frozen=True)
class KeptPicture:
    """A picture of which only the name was kept."""

    key: str

    def load(self) -> NoReturn:
        raise ImageError(f"{self.key} is not here: only its name was kept")

    def digest(self) -> NoReturn:
        self.load()


@dataclass
class Kept:
    """What a predictions.jsonl holds. header: {} in one that another program wrote."""

    header: dict[str, Any] = field(default_factory=dict)
    cases: list[Placed] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


class Book:
    """What was answered already, and where more is written."""

    def __init__(self, file: Path, header: dict[str, Any], cases: Sequence[Placed] = ()) -> None:
        """Raises LoupeError if the file answers something else."""
        self.file = file
        self.records: list[Record] = []
        self.done: set[tuple[str, str]] = set()
        if file.is_file():
            kept = read_book(file)
            self.records = kept.records
            refuse_other(kept.header, header, file)
            self.done = {(record["id"], record["system"]) for record in self.records}
        file.parent.mkdir(parents=True, exist_ok=True)
        # Rewritten whole: a killed run may have left half a line.
        with whole_file(file) as lines:
            for line in ({"loupe": header}, *map(written, cases), *self.records):
                lines.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def write(self, records: Iterable[Record]) -> None:
        with self.file.open("a", encoding="utf-8") as lines:
            for record in records:
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                self.records.append(record)
                self.done.add((record["id"], record["system"]))


def written(placed: Placed) -> dict[str, Any]:
    """A case as a line, without its regions: answers to them are scored by what was noted then."""
    place, case = placed
    return {
        "case": case.id, "place": place, "picture": case.picture.key, "question": case.question,
        "answers": case.answers, "choices": case.choices, "right": case.right, "extra": case.extra,
    }  # fmt: skip


def case_written(line: dict[str, Any]) -> Placed:
    case = Case(
        line["case"], KeptPicture(line["picture"]), line["question"], tuple(line["answers"]),
        choices=tuple(line["choices"]), right=line["right"], extra=line["extra"],
    )  # fmt: skip
    return line["place"], case


def read_book(file: Path) -> Kept:
    """A broken last line is left out; of answers to one case by one system the last counts."""
    kept = Kept()
    records: dict[tuple[str, str], Record] = {}
    for _, line in read_lines(file):
        if line is None:
            continue
        if "loupe" in line:
            kept.header = line["loupe"]
        elif "case" in line:
            kept.cases.append(case_written(line))
        elif "id" in line and "system" in line:
            records[line["id"], line["system"]] = line
    kept.records = list(records.values())
    return kept


def open_book(folder: str) -> Kept:
    """The book of a run. Raises LoupeError where there is none."""
    file = Path(folder) / PREDICTIONS
    if not file.is_file():
        raise LoupeError(f"{folder} holds no {PREDICTIONS}: give the --out of a run")
    kept = read_book(file)
    if kept.header.get("format") != FORMAT:
        raise LoupeError(f"{file} was not written by this version of loupe eval: run it again")
    return kept


def refuse_other(
    found: dict[str, Any],
    header: dict[str, Any],
    file: Path,
    help: str = "give another --out, or delete it",
) -> None:
    """Raises LoupeError where a file's header is not the run's."""
    for name, what in (
        ("task", "another task"),
        ("limit", "another --limit"),
        ("data", "other data"),
        ("models", "another model"),
        ("shard", "another shard"),
    ):
        if found.get(name) != header[name]:
            theirs = json.dumps(found.get(name))
            theirs = theirs if len(theirs) < 100 else theirs[:97] + "..."
            raise LoupeError(f"{file} holds answers of {what} ({theirs}): {help}")
