"""One thing put to a model, and how a data set becomes a list of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from train.data.sample import Area, Picture, Sample, Tally, Turn


@dataclass(frozen=True)
class Case:
    """question: "" asks for a caption. answers: all that people gave. right: of a choice, the one
    that is right. texts: what a model that matches pictures with texts is given in place of the
    choices, one each; a single text is matched or not. extra: what scoring or strata need."""

    id: str
    picture: Picture
    question: str
    answers: tuple[str, ...]
    areas: tuple[Area, ...] = ()
    choices: tuple[str, ...] = ()
    right: str = ""
    texts: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def truth(self) -> str:
        return self.right or self.answers[0]

    def region_masks(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """bool (height, width) each. Raises RegionError for an area without a pixel."""
        return tuple(area.region_mask(size) for area in self.areas)


def case_of(sample: Sample, turn: Turn, id: str) -> Case:
    return Case(
        id=id,
        picture=sample.picture,
        question=turn.question,
        answers=turn.answers,
        areas=tuple(sample.areas[index] for index in turn.areas),
        choices=turn.choices,
        right=sample.extra.get("right_choice", turn.answers[0] if turn.choices else ""),
        extra=sample.extra,
    )


def plain(samples: Iterable[Sample]) -> Iterator[Case]:
    """Every turn by itself. A sample of one turn keeps its id, others number theirs: 17.0, 17.1."""
    for sample in samples:
        for number, turn in enumerate(sample.turns):
            id = sample.id if len(sample.turns) == 1 else f"{sample.id}.{number}"
            yield case_of(sample, turn, id)


def unique(cases: Iterable[Case], tally: Tally) -> Iterator[Case]:
    """The cases; of those with one id the first, the others are counted."""
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            tally.add("an id comes twice; the first is kept", case.id)
            continue
        seen.add(case.id)
        yield case


def spread(cases: list[Case], limit: int) -> list[Case]:
    """`limit` of the cases at even distances, as files are often sorted; all for 0."""
    if not limit or limit >= len(cases):
        return cases
    return [cases[index * len(cases) // limit] for index in range(limit)]
