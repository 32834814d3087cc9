"""SHAPES with more questions than it has: the cells of its pictures are read, and answer any list.

A picture is 3 x 3 cells, each empty or with a circle, square or triangle, red, green or blue. A
question is "is a NOUN NOUN" or "is a NOUN RELATION ... a NOUN", and a relation means the cell
beside (Andreas et al., "Neural module networks", arXiv 1511.02799). Asked as "where is ..." it
teaches faster: a place says which cells the answer came from, a yes or no does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data.pictures import ArrayPicture, array_of
from train.data.sample import BadSampleError, Sample, Tally, Turn
from train.data.source import DataConfig

COLOURS = ("red", "green", "blue")
NOUNS = ("circle", "square", "triangle", *COLOURS)
SIMPLE = tuple(f"a {noun} shape" if noun in COLOURS else f"a {noun}" for noun in NOUNS)
FILLERS = ("is", "a", "shape", "of")
ASIDE = {"above": (1, 0), "below": (-1, 0), "left": (0, 1), "right": (0, -1)}  # the other's cell
PLACES = (
    *("top left", "top", "top right"),
    *("left", "centre", "right"),
    *("bottom left", "bottom", "bottom right"),
)  # the embedded default's own words
CELL, DARK = 10, 40  # pixels a side; grey levels below which a cell is empty
FLAT = 0.04  # an outer product's second singular value, against the first; circles have 0.1
LOW = 4.9  # pixel row below which a triangle's weight lies; a circle's lies in the middle, 4.5

Grids = dict[str, np.ndarray]  # noun -> bool (pictures, 3, 3), the cells it is true of


def read_relabelled(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """Every question about every picture, yes or no.

    path: NAME.npz, or its folder and split=NAME. answers: the questions, a line each.
    """
    file, asked, grids = ask_all(config, tally)
    for number in range(len(grids["red"])):
        turns = tuple(
            Turn(question, ("yes" if cells[number].any() else "no",), choices=("yes", "no"))
            for question, cells in asked
        )
        yield Sample(f"{file.stem}/{number}", ArrayPicture(file, number), turns)


def read_where(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """The same questions as "where is ...", and "where is a NOUN": those that a single cell of the
    picture answers."""
    file, asked, grids = ask_all(config, tally)
    asked += [(f"is {noun}", hits(noun, grids)) for noun in SIMPLE]
    for number in range(len(grids["red"])):
        turns = tuple(
            Turn(f"where {question}", (PLACES[cells[number].argmax()],))
            for question, cells in asked
            if cells[number].sum() == 1
        )
        if turns:
            yield Sample(f"{file.stem}/{number}", ArrayPicture(file, number), turns)


def ask_all(config: DataConfig, tally: Tally) -> tuple[Path, list[tuple[str, np.ndarray]], Grids]:
    """The pictures' file, each question with its hits in all of them, and what is in the cells."""
    file = config.inside(f"{config.split or 'train_small'}.npz")
    questions = config.second("train_large_questions_unique.txt")
    grids = read_grids(array_of(file))
    asked = []
    for question in filter(None, map(str.strip, questions.read_text("utf-8").splitlines())):
        with tally.row(question):
            asked.append((question, hits(question, grids)))
    return file, asked, grids


def hits(question: str, grids: Grids) -> np.ndarray:
    """bool (pictures, 3, 3): the cells that make the answer yes, or where a noun alone is true.

    Raises BadSampleError for words that are no SHAPES question.
    """
    words = [word for word in question.split() if word not in FILLERS]
    if not words or not {words[0], words[-1]} <= {*NOUNS} or not {*words[1:-1]} <= {*ASIDE}:
        raise BadSampleError("a question is not written as those of SHAPES are")
    cells = grids[words[-1]]
    for relation in reversed(words[1:-1]):
        down, across = ASIDE[relation]
        wide = np.pad(cells, ((0, 0), (1, 1), (1, 1)))
        cells = wide[:, 1 + down : 4 + down, 1 + across : 4 + across]
    return grids[words[0]] & cells


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
