"""Lines of a data set as they are gathered: one writer for each photo, its draws its own."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.files import whole_file
from train.photos.names import plural, with_article
from train.photos.wordings import ask

TIMES = 3  # wordings of each fact
PIECES = 12  # word pieces of notes, one for each soft token

Regions = Sequence[dict[str, Any]]


def draws(*names: object) -> np.random.Generator:
    """Draws that follow from names alone, so that one set does not change another."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, names)).encode()))


def share_of(name: str) -> float:
    """A number in [0, 1) for a photo, by its name."""
    return zlib.crc32(Path(name).name.encode()) / 2**32


def short_notes(words: str) -> str:
    """As many of the words as surely fit PIECES: a long word may be several pieces."""
    kept, left = [], PIECES
    for word in words.replace("-", " ").split():
        left -= 1 + (len(word) - 1) // 7
        if left < 0:
            break
        kept.append(word)
    return " ".join(kept)


class Lines:
    """The lines of one set about one photo. image: its path below the source, with / between."""

    def __init__(self, kind: str, image: str) -> None:
        self.image, self.rng = image, draws(kind, image)
        self.found: list[dict[str, Any]] = []

    def say(self, texts: Iterable[str], notes: str, regions: Regions = ()) -> None:
        """Captions of the photo, or of a region."""
        texts = list(dict.fromkeys(texts))
        if texts:
            self._add(regions, text=texts, notes=short_notes(notes))

    def question(self, question: str, answers: Sequence[str] | str, notes: str = "",
                 regions: Regions = ()) -> None:  # fmt: skip
        answers = [answers] if isinstance(answers, str) else list(answers)
        said = {"answer": answers[0]} if len(answers) == 1 else {"answers": answers}
        noted = {"notes": short_notes(notes)} if notes else {}
        self._add(regions, question=question, **said, **noted)

    def fact(self, kind: str, answer: str, notes: str, regions: Regions = (), about: str = "",
             times: int = TIMES) -> None:  # fmt: skip
        """One fact in several wordings. about: the thing that is asked for."""
        named = {"s": about, "a": with_article(about), "m": plural(about)} if about else {}
        for question in ask(self.rng, kind, times, **named):
            self.question(question, answer, notes, regions)

    def exists(self, name: str, there: bool, times: int = TIMES) -> None:
        answer = "yes" if there else "no"
        self.fact("exist", answer, f"{answer} {name}", about=name, times=times)

    def count(self, name: str, number: str, times: int = TIMES) -> None:
        things = name if number == "one" else plural(name)
        self.fact("count", number, f"{number} {things}", about=name, times=times)

    def _add(self, regions: Regions, **said: Any) -> None:
        line: dict[str, Any] = {"image": self.image}
        if regions:
            line["regions"] = list(regions)
        self.found.append(line | said)


def write(path: Path, lines: Iterable[dict[str, Any]]) -> int:
    """A JSONL file, written whole; how many lines it has."""
    count = 0
    with whole_file(path) as file:
        for line in lines:
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
            count += 1
    return count


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]
