"""From samples to what the models read: rows for the Q-Former, prompts for the language model.

One turn is learned at a time. What was said before it in its dialogue is read, and laid out as a
Conversation lays it out when the model is asked, so that training and answering cannot differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from qformer.bridge import BridgeConfig, Focal, PassRows
from qformer.contracts import LanguageModel, LoupeError, TextTokenizer
from qformer.prompt import (
    PICTURE,
    Piece,
    PromptConfig,
    assemble,
    count_tokens,
    declarations,
    instruction,
    lay_out,
)
from qformer.proposals import box_around
from qformer.qformer import ImageMemory
from qformer.regions import RegionConfig, box_geometry, focal_box, patch_coverage
from train.data.sample import Area, BadSampleError, Picture, Sample, Turn
from train.features import Seen, Sight

NAMED = re.compile(r"\bregion ?\d+")

AreaKey = tuple[str, int]  # a sample's id and the number of its area


@dataclass(frozen=True)
class Said:
    """One turn as it is read: pieces of the prompt, ids of the answer (its end included), areas
    behind the names of its soft tokens (None for the picture), for an instruct bridge the ids of
    the question with the span of each region's name, and ids of words for the first of these soft
    tokens: the picture's where the turn has them, else its first region's."""

    pieces: list[Piece]
    answer: list[int]
    sources: dict[str, AreaKey | None]
    instruction: tuple[list[int], list[tuple[int, int]]] | None = None
    regions: tuple[AreaKey, ...] = ()  # areas of the instruction's spans
    notes: tuple[int, ...] = ()


Ask = list[Said]  # a dialogue up to the turn that is learned, its last


class Wording:
    """How samples are worded for one model. notes: whether those of the samples are learned."""

    def __init__(
        self,
        prompt: PromptConfig,
        bridge: BridgeConfig,
        language: LanguageModel,
        tokenizer: TextTokenizer | None,
        notes: bool = False,
    ) -> None:
        if prompt.composer == "text":
            raise LoupeError(
                'composer="text" puts the model\'s own captions into the prompt and is not trained:'
                ' set prompt.composer="global+regions"; the checkpoint may still answer with "text"'
            )
        self.prompt, self.bridge, self.language, self.tokenizer = (
            prompt,
            bridge,
            language,
            tokenizer,
        )
        self.lead, self.notes = lead(language), notes

    def ask(self, sample: Sample, number: int, answer: str | None = None) -> Ask:
        """Turn `number` of a sample. answer: another of a caption's than the first.

        Raises LoupeError for a turn that cannot be read or learned.
        """
        turns = sample.turns[: number + 1] if sample.dialogue else (sample.turns[number],)
        names = region_names(turns)
        told: Ask = []
        declared: set[str] = set()
        previous = None
        for turn in turns:
            question = turn.question or self.prompt.caption
            prompt = self.prompt if turn.question else self.prompt.for_captions()
            regions = {names[area]: (sample.id, area) for area in turn.areas}
            known = () if self.bridge.instruct else declared
            declare = declarations(prompt.composer, list(regions), known)
            areas = {PICTURE: None, **regions}
            last = turn is turns[-1]
            told.append(
                Said(
                    lay_out(prompt, question, declare, first=not told),
                    self.answer_ids(answer if last and answer else turn.answers[0]),
                    {name: areas[name] for name in declare},
                    self._instruction(previous, list(regions), question),
                    tuple(regions.values()),
                    self._notes(turn) if last and declare else (),
                )
            )
            declared |= {*declare, *regions}
            previous = question
        while self._length(told) > self.language.context:
            if len(told) == 1:
                raise BadSampleError("a turn is longer than the language model reads")
            told = self.ask(replace(sample, dialogue=False), number, answer)
        return told

    def answer_ids(self, answer: str) -> list[int]:
        ids = self.language.tokenize(self.lead + answer).tolist()
        if not ids:
            raise BadSampleError("an answer has no tokens")
        return [*ids, self.language.eos_id]

    def _notes(self, turn: Turn) -> tuple[int, ...]:
        ids = self.language.tokenize(turn.notes).tolist() if self.notes and turn.notes else ()
        if len(ids) > self.bridge.qformer.num_queries:
            raise BadSampleError(
                f"notes of {len(ids)} words, more than the {self.bridge.qformer.num_queries} soft "
                "tokens of a picture: set start.queries"
            )
        return tuple(ids)

    def _instruction(self, previous: str | None, names: Sequence[str], question: str):
        if not self.bridge.instruct or self.tokenizer is None:
            return None
        return instruction(self.tokenizer, self.bridge, previous, names, question)

    def _length(self, ask: Ask) -> int:
        queries = self.bridge.qformer.num_queries
        return sum(
            count_tokens(self.language, said.pieces, queries) + len(said.answer) for said in ask
        )


def lead(language: LanguageModel) -> str:
    """What stands between a prompt and its answer. A tokenizer that writes a word's space into the
    word (sentencepiece) needs nothing, a byte-level one " ": "Answer:" and " yes"."""
    apart = [*language.tokenize("a").tolist(), *language.tokenize("b").tolist()]
    return "" if language.tokenize("a b").tolist() == apart else " "


def region_names(turns: Sequence[Turn]) -> dict[int, str]:
    """Area -> "region 1", ...: by their own number where the words use it, else as they come."""
    areas = dict.fromkeys(area for turn in turns for area in turn.areas)
    if any(NAMED.search(text) for turn in turns for text in (turn.question, *turn.answers[:1])):
        return {area: f"region {area + 1}" for area in areas}
    return {area: f"region {place}" for place, area in enumerate(areas, 1)}


@dataclass
class Placed:
    """An area on the patch grid: patch_coverage (patches,), geometry (5,), and of a small one its
    focal crop with the area's coverage of that."""

    patch_coverage: Tensor
    geometry: Tensor
    crop: Seen | None = None
    crop_coverage: Tensor | None = None


@dataclass
class Visit:
    """A picture of a batch: what is asked of it, and its areas on the patch grid."""

    asks: list[Ask]
    areas: dict[AreaKey, Placed] = field(default_factory=dict)


def place_area(
    area: Area, picture: Picture, seen: Seen, sight: Sight, config: RegionConfig
) -> Placed:
    """An area of a picture on the patch grid, with its focal crop where it is small.

    Raises RegionError for an area that is not on the picture.
    """
    region_mask, grid = area.region_mask(seen.size), sight.vision.grid
    x0, y0, x1, y1 = map(float, box_around(region_mask))
    box, coverage = (x0, y0, x1, y1), patch_coverage(region_mask, grid)
    placed = Placed(coverage, box_geometry(box, float(region_mask.sum()), seen.size))
    if int((coverage > 0).sum()) < config.focal_patches:
        left, top, right, bottom = focal_box(box, seen.size, config.focal_crop)
        placed.crop = sight.close_up(picture, region_mask, box, config.focal_crop)
        placed.crop_coverage = patch_coverage(region_mask[top:bottom, left:right], grid)
    return placed


@dataclass
class Group:
    """Pictures of a batch that need as many rows: their places in it, the rows, and which of these
    read a focal crop, (row, area) each."""

    pictures: list[int]
    rows: PassRows
    close_ups: list[tuple[int, Placed]]


@dataclass
class Asked:
    """All that a batch asks. Each ask is (its turns, soft tokens of each turn by source as (group,
    row))."""

    groups: list[Group]
    asks: list[tuple[Ask, list[dict[str, tuple[int, int]]]]]


def collate(visits: Sequence[Visit], patches: int, pad_id: int) -> Asked:
    """Rows for all soft tokens, each made once: where the question does not enter the Q-Former,
    all turns about a picture share its rows."""
    needed: list[dict] = []  # of each picture: key -> (said, area)
    for visit in visits:
        rows: dict = {}
        for number, ask in enumerate(visit.asks):
            for turn, said in enumerate(ask):
                for area in said.sources.values():
                    rows.setdefault(row_key(number, turn, said, area), (said, area))
        needed.append(rows)
    by_count: dict[int, list[int]] = {}
    for picture, rows in enumerate(needed):
        by_count.setdefault(len(rows), []).append(picture)
    groups, place = [], {}
    for count, pictures in by_count.items():
        for order, picture in enumerate(pictures):
            for n, key in enumerate(needed[picture]):
                place[picture, key] = (len(groups), order * count + n)
        wanted = [(visits[p], *row) for p in pictures for row in needed[p].values()]
        close_ups = [
            (row, visit.areas[area])
            for row, (visit, _, area) in enumerate(wanted)
            if area is not None and visit.areas[area].crop is not None
        ]
        groups.append(Group(pictures, pass_rows(wanted, patches, pad_id), close_ups))
    asks = []
    for picture, visit in enumerate(visits):
        for number, ask in enumerate(visit.asks):
            tokens = [
                {
                    name: place[picture, row_key(number, turn, said, area)]
                    for name, area in said.sources.items()
                }
                for turn, said in enumerate(ask)
            ]
            asks.append((ask, tokens))
    return Asked(groups, asks)


def row_key(ask: int, turn: int, said: Said, area: AreaKey | None):
    return (area,) if said.instruction is None else (ask, turn, area)


def pass_rows(
    wanted: list[tuple[Visit, Said, AreaKey | None]], patches: int, pad_id: int
) -> PassRows:
    rows = PassRows.whole(len(wanted), patches)
    for n, (visit, _, area) in enumerate(wanted):
        if area is not None:
            put_area(rows, n, visit.areas[area])
    if wanted[0][1].instruction is None:
        return rows
    longest = max(len(said.instruction[0]) for _, said, _ in wanted)  # type: ignore[index]
    rows.input_ids = torch.full((len(wanted), longest), pad_id)
    rows.attention_mask = torch.zeros(len(wanted), longest, dtype=torch.long)
    rows.text_has_geometry = torch.zeros(len(wanted), longest, dtype=torch.bool)
    rows.text_geometry = torch.zeros(len(wanted), longest, 5)
    for n, (visit, said, _) in enumerate(wanted):
        ids, spans = said.instruction  # type: ignore[misc]
        rows.input_ids[n, : len(ids)] = torch.tensor(ids)
        rows.attention_mask[n, : len(ids)] = 1
        for (start, stop), area in zip(spans, said.regions, strict=True):
            rows.text_has_geometry[n, start:stop] = True
            rows.text_geometry[n, start:stop] = visit.areas[area].geometry
    return rows


def put_area(rows: PassRows, n: int, area: Placed) -> None:
    """Row n reads this area."""
    rows.patch_coverage[n], rows.geometry[n], rows.is_region[n] = (
        area.patch_coverage, area.geometry, True
    )  # fmt: skip


class CloseUps:
    """The focal crops of a batch, each once. crops: what is stacked for the encoder."""

    def __init__(self, placed: Iterable[Placed]) -> None:
        self.number: dict[int, int] = {}
        self.crops: list[Seen] = []
        for area in placed:
            if area.crop is not None and id(area) not in self.number:
                self.number[id(area)] = len(self.crops)
                self.crops.append(area.crop)

    def focal(self, close_ups: Sequence[tuple[int, Placed]], memory: ImageMemory) -> Focal | None:
        """Those that rows read, (row, area) each. memory: of all crops of the batch."""
        if not close_ups:
            return None
        device = memory.keys[0].device
        index = torch.tensor([self.number[id(area)] for _, area in close_ups], device=device)
        coverage = [area.crop_coverage for _, area in close_ups if area.crop_coverage is not None]
        rows = torch.tensor([row for row, _ in close_ups], device=device)
        return Focal(memory.select(index), rows, torch.stack(coverage).to(device))


def prompt_of(
    language: LanguageModel, ask: Ask, tokens: Sequence[dict[str, tuple[int, int]]], soft: Sequence
) -> Tensor:
    """What the language model reads before the last answer, (n, width). soft: of each group, its
    soft tokens by row."""
    parts = []
    for turn, (said, sources) in enumerate(zip(ask, tokens, strict=True)):
        parts.append(
            assemble(language, said.pieces, {name: soft[g][r] for name, (g, r) in sources.items()})
        )
        if turn + 1 < len(ask):
            parts.append(language.embed(torch.tensor(said.answer)).to(parts[0].dtype))
    return torch.cat(parts)
