"""SHAPES with more questions than it has: composed from its grammar, answered from the pixels.

A picture is 3 x 3 cells, each empty or with a circle, square or triangle, red, green or blue. A
question is "is a NOUN NOUN" or "is a NOUN RELATION [RELATION] a NOUN", and a relation means the
cell beside (Andreas et al., "Neural module networks", arXiv 1511.02799). Asked as "where is ..."
it teaches faster: all cells that it is true of tell more than a yes or no.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product

import numpy as np

from train.data.pictures import ArrayPicture, array_of
from train.data.sample import BadSampleError, Sample, Tally, Turn
from train.data.source import DataConfig, read_lines

COLOURS = ("red", "green", "blue")
NOUNS = ("circle", "square", "triangle", *COLOURS)
RELATIONS = ("above", "below", "left of", "right of")
MOST_RELATIONS = 2  # in a question
FILLERS = ("is", "a", "shape", "of")
ASIDE = {"above": (1, 0), "below": (-1, 0), "left": (0, 1), "right": (0, -1)}  # the other's cell
PLACES = (
    *("top left", "top", "top right"),
    *("left", "centre", "right"),
    *("bottom left", "bottom", "bottom right"),
)  # the embedded default's own words
NOWHERE = "nothing"
TURNS = 240  # of a picture, drawn once
CELL, DARK = 10, 40  # pixels a side; grey levels below which a cell is empty
FLAT = 0.04  # an outer product's second singular value, against the first; circles have 0.1
LOW = 4.9  # pixel row below which a triangle's weight lies; a circle's lies in the middle, 4.5

Grids = dict[str, np.ndarray]  # noun -> bool (pictures, 3, 3), the cells it is true of


def read_relabelled(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """Composed questions, as many to be answered yes as no.

    path: NAME.npz, or its folder and split=NAME. answers: a .jsonl whose questions are left out,
    val.jsonl where nothing is said.
    """
    kinds = [[q for q in whole(config) if relations_of(q) == n] for n in range(MOST_RELATIONS + 1)]
    for sample, asked in draw(config, kinds):
        turns = [
            turn(question, "yes" if cells.any() else "no", marks(cells), True)
            for question, cells in asked
        ]
        yield Sample(**sample, turns=tuple(turns))


def read_where(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """The same as "where is ...", answered by all cells that it is true of, and of each the second
    half alone: "where is above a circle". Path and answers as above."""
    kinds = [[q for q in whole(config) if relations_of(q) == n] for n in range(MOST_RELATIONS + 1)]
    kinds += [[q for q in halves() if relations_of(q) == n] for n in range(MOST_RELATIONS + 1)]
    for sample, asked in draw(config, kinds):
        turns = [
            turn(f"where {question}", places(cells), marks(cells)) for question, cells in asked
        ]
        yield Sample(**sample, turns=tuple(turns))


@cache
def turn(question: str, answer: str, notes: str, choose: bool = False) -> Turn:
    return Turn(question, (answer,), choices=("yes", "no") if choose else (), notes=notes)


def marks(cells: np.ndarray) -> str:
    """bool (3, 3) -> a word for each cell, and so for nine soft tokens: "yes no no ..." """
    return " ".join("yes" if hit else "no" for hit in cells.flat)


def places(cells: np.ndarray) -> str:
    """bool (3, 3) -> "top left, centre" """
    return ", ".join(name for name, hit in zip(PLACES, cells.flat, strict=True) if hit) or NOWHERE


def relations_of(question: str) -> int:
    return sum(word in ASIDE for word in question.split())


def a(noun: str) -> str:
    return f"a {noun} shape" if noun in COLOURS else f"a {noun}"


@cache
def halves() -> tuple[str, ...]:
    """ "is a circle", "is above a circle", "is left of above a circle" """
    chains = [chain for n in range(MOST_RELATIONS + 1) for chain in product(RELATIONS, repeat=n)]
    return tuple(" ".join(["is", *chain, a(noun)]) for chain in chains for noun in NOUNS)


def whole(config: DataConfig) -> list[str]:
    """Every question of the grammar that is not left out."""
    rows = [row for _, row in read_lines(config.second("val.jsonl")) if row]
    left_out = {str(row.get("question")) for row in rows}
    questions = []
    for noun, half in product(NOUNS, halves()):
        rest = half.removeprefix("is ")
        if not relations_of(half) and rest.endswith(" shape"):  # "is a circle red"
            rest = rest.removeprefix("a ").removesuffix(" shape")
        questions.append(f"is {a(noun)} {rest}")
    return [question for question in questions if question not in left_out]


def draw(
    config: DataConfig, kinds: list[list[str]]
) -> Iterator[tuple[dict, list[tuple[str, np.ndarray]]]]:
    """Yield for each picture its id and place, and TURNS questions with their cells (3, 3): equally
    many of each kind, and half of them true of a cell where the picture lets them."""
    part = config.splits_beside("*.npz")
    file = config.inside(f"{part}.npz")
    grids = read_grids(array_of(file))
    pictures = len(grids["red"])
    asked = [[(question, hits(question, grids)) for question in kind] for kind in kinds]
    true = [  # of each kind (questions, pictures)
        np.array([cells.any((1, 2)) for _, cells in kind]).reshape(len(kind), pictures)
        for kind in asked
    ]
    for number in range(pictures):
        rng = np.random.default_rng(number)
        drawn = []
        for kind, held in zip(asked, true, strict=True):
            for wanted in (True, False):
                among = np.flatnonzero(held[:, number] == wanted)
                count = min(len(among), TURNS // (2 * len(kinds)))
                drawn += [kind[place] for place in rng.choice(among, count, replace=False)]
        sample = {"id": f"{file.stem}/{number}", "picture": ArrayPicture(file, number)}
        yield sample, [(question, cells[number]) for question, cells in drawn]


def hits(question: str, grids: Grids) -> np.ndarray:
    """bool (pictures, 3, 3): the cells that make the answer yes; without its first noun, those that
    the rest is true of.

    Raises BadSampleError for words that are no SHAPES question.
    """
    words = [word for word in question.split() if word not in FILLERS]
    noun = words.pop(0) if len(words) > 1 and words[0] in NOUNS else None
    if not words or words[-1] not in NOUNS or not {*words[:-1]} <= {*ASIDE}:
        raise BadSampleError("a question is not written as those of SHAPES are")
    cells = grids[words[-1]]
    for relation in reversed(words[:-1]):
        down, across = ASIDE[relation]
        wide = np.pad(cells, ((0, 0), (1, 1), (1, 1)))
        cells = wide[:, 1 + down : 4 + down, 1 + across : 4 + across]
    return cells if noun is None else grids[noun] & cells


def read_grids(pictures: np.ndarray) -> Grids:
    """uint8 (pictures, 30, 30, 3) -> what is in their cells.

    Raises BadSampleError for pictures of another size.
    """
    if pictures.shape[1:] != (3 * CELL, 3 * CELL, 3):
        raise BadSampleError(f"pictures of SHAPES are 30 x 30, these are {pictures.shape[1:3]}")
    grids = {noun: np.zeros((len(pictures), 3, 3), bool) for noun in NOUNS}
    for number, row, column in np.ndindex(len(pictures), 3, 3):
        cell = pictures[number, CELL * row :, CELL * column :][:CELL, :CELL].astype(float)
        light = cell.max(-1)
        if light.max() >= DARK:
            grids[shape_of(light)][number, row, column] = True
            grids[COLOURS[cell.sum((0, 1)).argmax()]][number, row, column] = True
    return grids


def shape_of(light: np.ndarray) -> str:
    """What a cell's brightness (10, 10) draws. A square, blurred edges and all, is an outer
    product of two profiles."""
    values = np.linalg.svd(light, compute_uv=False)
    if values[1] < FLAT * values[0]:
        return "square"
    rows = light.sum(1)
    return "triangle" if (rows * np.arange(CELL)).sum() > LOW * rows.sum() else "circle"
