"""Where a data set's files lie, and how they are opened."""

from __future__ import annotations

import pickle
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from adapters import texts
from qformer.contracts import LoupeError
from train.data.pictures import Gallery


@dataclass(frozen=True)
class DataConfig:
    """One data set. format: a name of READERS. path: its file, or the folder of its files. images:
    the folder or zip archive of its pictures, where they are not beside. answers: a second file,
    for formats that have two (VQAv2's annotations, RefCOCO's instances). split: the part to read.
    part: which share of the pictures, told apart by a hash of their names: [0.0, 0.9] to learn from
    where [0.9, 1.0] validates. weight: how often it is drawn, against the others. limit: most
    samples read; 0 for all. question: what is asked where the data only name or describe ("what is
    this?" of COCO's instances); without it a name is learned as a caption."""

    format: str
    path: str
    images: str | None = None
    answers: str | None = None
    split: str | None = None
    part: tuple[float, ...] = (0.0, 1.0)
    weight: float = 1.0
    limit: int = 0
    question: str = ""

    def __post_init__(self) -> None:
        if len(self.part) != 2 or not 0 <= self.part[0] < self.part[1] <= 1:
            raise LoupeError(f"part={list(self.part)} of {self.path}: give it as [0.0, 0.9]")
        if self.weight <= 0:
            raise LoupeError(f"weight={self.weight:g} of {self.path} must be above 0")
        if self.limit < 0:
            raise LoupeError(f"limit={self.limit} of {self.path} must be 0 (all) or more")

    def holds(self, picture: str) -> bool:
        """Whether a picture, by its key, is of this `part`. The folder it lies in plays no role."""
        start, stop = self.part
        return (
            start
            <= zlib.crc32(PurePath(picture).name.encode(errors="surrogatepass")) / 2**32
            < stop
        )

    @property
    def file(self) -> Path:
        path = Path(self.path)
        if not path.is_file():
            raise LoupeError(f"there is no file {path}: check path of the {self.format} data")
        return path

    def inside(self, *names: str) -> Path:
        """`path` itself if it is a file, else the first of `names` in that folder."""
        path = Path(self.path)
        if path.is_file():
            return path
        for name in names:
            if (path / name).is_file():
                return path / name
        raise LoupeError(
            f"{path} is neither a file nor a folder with {' or '.join(names)}: check path of the "
            f"{self.format} data"
        )

    def second(self, *names: str) -> Path:
        """The file that `answers` names, else the first of `names` beside `path`."""
        if self.answers is None:
            folder = Path(self.path) if Path(self.path).is_dir() else Path(self.path).parent
            for name in names:
                if (folder / name).is_file():
                    return folder / name
            raise LoupeError(f"the {self.format} data at {self.path} need answers=FILE")
        if not Path(self.answers).is_file():
            raise LoupeError(f"there is no file {self.answers}: check answers of {self.format}")
        return Path(self.answers)

    def one_split(self, there: Iterable[str | None]) -> str | None:
        """The part to read: `split`, or the only one there is; None where the data tell no parts.
        Raises LoupeError where there are several and none was named, or no such one."""
        splits = sorted({str(name) for name in there if name is not None})
        if self.split is None and len(splits) < 2:
            return splits[0] if splits else None
        if self.split is None or (splits and self.split not in splits):
            wrong = "" if self.split is None else f", and no {self.split!r}"
            raise LoupeError(
                f"{self.path} holds the splits {', '.join(splits)}{wrong}: name one of them (split="
                f'"{splits[0]}" in a recipe, --split {splits[0]} on the command line)'
            )
        return self.split

    def splits_beside(self, *patterns: str) -> str | None:
        """As `one_split`, of a folder whose files are called after it: "*_questions.json", or more
        than once: "*/*.json" is dev/dev.json."""
        folder = Path(self.path)
        if not folder.is_dir():
            return self.split
        there: set[str] = set()
        for pattern in patterns:
            name = re.escape(pattern).replace(r"\*", "([^/]+)", 1).replace(r"\*", r"\1")
            files = (file.relative_to(folder).as_posix() for file in folder.glob(pattern))
            there |= {found[1] for file in files if (found := re.fullmatch(name, file))}
        return self.one_split(there)

    def gallery(self, *beside: str) -> Gallery:
        """The pictures: `images`, else the first of `beside` next to the annotations, else their
        own folder."""
        if self.images is not None:
            return Gallery(Path(self.images))
        path = Path(self.path)
        folder = path if path.is_dir() else path.parent
        found = next((folder / name for name in beside if (folder / name).exists()), folder)
        return Gallery(found)


def read_json_file(path: Path) -> Any:
    try:
        return texts.read_json(path)
    except (OSError, ValueError):
        raise LoupeError(f"{path} is not readable JSON: download it again") from None


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(place, object) of each line of a JSONL file; None where a line holds none."""
    with path.open("rb") as file:
        encoding = texts.encoding_of(file.read(4))
    with path.open(encoding=encoding, errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                values = texts.parse_json(line)
            except ValueError:
                values = None
            yield f"line {number}", values if isinstance(values, dict) else None


class _PlainUnpickler(pickle.Unpickler):
    """Dicts, lists, texts and numbers, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise LoupeError(f"it holds a {module}.{name}, which data does not need")


def read_plain_pickle(path: Path) -> Any:
    """RefCOCO's refs(...).p. Raises LoupeError for a pickle of more than plain values."""
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except LoupeError as error:
        raise LoupeError(f"{path} is not read: {error}") from None
    except Exception:
        raise LoupeError(f"{path} is not a pickle of plain values: download it again") from None
