"""What a task is: which files it reads, what it asks, and how the answers are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from train.data.sample import Sample
from train.eval.case import Case, plain
from train.eval.choices import choice_in
from train.eval.stats import Measure

Record = dict[str, Any]  # one line of predictions.jsonl: {"id", "system", "answer", ...}
Score = Callable[[Sequence[Case], Sequence[Record]], dict[str, Measure]]


@dataclass(frozen=True)
class Task:
    """says: what it measures. rule: the official rule, and which where tools disagree.

    format: the reader of its files, a name of train.data.readers. asked: what "dataset" begins with
    in files of the plain form ("asked"). split: the part that is asked where none is named.
    ways: how a model may be asked, the first it can: "write" an answer, "choose" one by likelihood,
    "match" texts with the picture, "find" a region. keys: what the official result files call a
    case and its answer. verbatim: the scorer reads free answers itself, whatever the choices.
    preset: how published models write. regions: it is about regions. closed: few answers, so that a
    confusion says something. similar: how near answers come in meaning is told too, where a
    sentence encoder is given. strata: label of a case, to score apart.
    """

    says: str
    rule: str
    format: str
    score: Score
    split: str | None = None
    asked: str = ""
    cases: Callable[[Iterable[Sample]], Iterator[Case]] = plain
    ways: tuple[str, ...] = ("write",)
    keys: tuple[str, str] = ("question_id", "answer")
    verbatim: bool = False
    preset: str = "vqa"
    regions: bool = False
    closed: bool = False
    similar: bool = False
    strata: Callable[[Case], str | None] = field(default=lambda case: None)

    def read(self, answer: str, case: Case) -> str:
        """What is scored of an answer in free words: the choice that it means, where there are."""
        return answer if self.verbatim or not case.choices else choice_in(answer, case.choices)

    @property
    def retrieval(self) -> bool:
        return self.ways == ("retrieve",)
