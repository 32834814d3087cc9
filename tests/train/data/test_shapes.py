"""SHAPES relabelled: cells are read from pixels, questions answered from cells."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from qformer.contracts import LoupeError
from train.config import CONFIGS
from train.data.readers import read
from train.data.sample import BadSampleError, Tally
from train.data.shapes import PLACES, hits, read_grids, relations_of, whole
from train.data.source import DataConfig
from train.recipe import read_recipe

SHAPES = Path(__file__).parents[4] / "shared" / "data" / "shapes"
COLOURS = {"red": 0, "green": 1, "blue": 2}


def painted(**cells) -> np.ndarray:
    """A picture (1, 30, 30, 3): a1 is the top left cell, c3 the bottom right one."""
    picture = np.zeros((1, 30, 30, 3), np.uint8)
    rows, columns = np.mgrid[:10, :10] - 4.5
    drawn = {
        "square": (abs(rows) < 3.6) & (abs(columns) < 3.6),
        "circle": rows**2 + columns**2 < 3.6**2,
        "triangle": (abs(columns) < (rows + 3.6) / 2) & (rows < 3.6),
    }
    for name, (colour, shape) in cells.items():
        top, left = 10 * "abc".index(name[0]), 10 * (int(name[1]) - 1)
        picture[0, top : top + 10, left : left + 10, COLOURS[colour]] = 230 * drawn[shape]
    return picture


def test_cells_are_read_from_pixels():
    grids = read_grids(
        painted(a1=("red", "circle"), b2=("green", "square"), c3=("blue", "triangle"))
    )
    found = {noun: [tuple(cell) for cell in np.argwhere(grids[noun][0])] for noun in grids}
    assert found == {
        "circle": [(0, 0)], "red": [(0, 0)],
        "square": [(1, 1)], "green": [(1, 1)],
        "triangle": [(2, 2)], "blue": [(2, 2)],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("question", "where"),
    [
        ("is a red shape a circle", ["top left"]),
        ("is a circle red", ["top left"]),
        ("is a circle above a green shape", ["top"]),
        ("is a red shape above a green shape", []),  # two cells away is not above
        ("is a square below a circle", ["centre"]),
        ("is a square right of below a red shape", ["centre"]),
        ("is a circle left of above a square", ["top left"]),
        ("is a circle left of right of a circle", ["top left", "top"]),
        ("is a triangle above above a circle", []),
        ("is a circle", ["top left", "top"]),
        ("is above a square", ["top"]),
        ("is right of left of a circle", ["top"]),
    ],
)
def test_a_relation_means_the_cell_beside(question, where):
    grids = read_grids(painted(a1=("red", "circle"), a2=("blue", "circle"), b2=("green", "square")))
    cells = hits(question, grids)[0]
    assert [place for place, hit in zip(PLACES, cells.flat, strict=True) if hit] == where


@pytest.mark.parametrize(
    "question", ["", "is a dog above a cat", "is a circle near a square", "is a circle above"]
)
def test_other_questions_are_refused(question):
    with pytest.raises(BadSampleError, match="SHAPES"):
        hits(question, read_grids(painted()))


def answers(format: str, folder: Path, left_out: tuple[str, ...] = ()) -> dict[str, str]:
    rows = [json.dumps({"question": question}) for question in left_out]
    (folder / "val.jsonl").write_text("\n".join(rows))
    picture = painted(a1=("red", "circle"), a2=("green", "square"), c3=("red", "square"))
    np.savez(folder / "mine.npz", images=picture)
    (sample,) = read(DataConfig(format, str(folder), split="mine"), Tally(0.0))
    return {turn.question: turn.answers[0] for turn in sample.turns}


def test_composed_questions_are_as_often_true_as_false_where_they_can_be(tmp_path):
    answered = answers("shapes-relabelled", tmp_path)
    assert set(answered.values()) == {"yes", "no"}
    for relations in range(3):
        kind = [said for question, said in answered.items() if relations_of(question) == relations]
        assert kind.count("no") >= kind.count("yes") > 0
    assert answered["is a circle red"] == "yes"


def test_where_lists_all_cells_and_asks_for_the_second_half_alone(tmp_path):
    answered = answers("shapes-where", tmp_path)
    assert answered["where is a red shape"] == "top left, bottom right"
    assert answered["where is a circle red"] == "top left"
    assert answered["where is a blue shape"] == "nothing"
    assert any(question.startswith("where is above a") for question in answered)


@pytest.mark.parametrize("format", ["shapes-relabelled", "shapes-where"])
def test_notes_mark_the_cells_in_the_order_they_are_read(format, tmp_path):
    answers(format, tmp_path)
    (sample,) = read(DataConfig(format, str(tmp_path), split="mine"), Tally(0.0))
    notes = {turn.question.removeprefix("where "): turn.notes for turn in sample.turns}
    assert notes["is a circle red"] == "yes no no no no no no no no"
    assert notes["is a green shape right of a circle"] == "no yes no no no no no no no"


def test_what_val_asks_is_left_out(tmp_path):
    asked = "is a circle red"
    assert asked not in answers("shapes-relabelled", tmp_path, left_out=(asked,))
    assert f"where {asked}" not in answers("shapes-where", tmp_path, left_out=(asked,))


def test_the_grammar_has_756_questions(tmp_path):
    (tmp_path / "val.jsonl").write_text("")
    questions = whole(DataConfig("shapes-where", str(tmp_path)))
    assert len(set(questions)) == 6 * 6 * (1 + 4 + 16)
    grids = read_grids(painted())
    assert not any(hits(question, grids).any() for question in questions)


def test_pictures_of_another_size_are_refused(tmp_path):
    np.savez(tmp_path / "mine.npz", images=np.zeros((1, 32, 32, 3), np.uint8))
    (tmp_path / "val.jsonl").write_text("")
    with pytest.raises(LoupeError, match="30 x 30"):
        list(read(DataConfig("shapes-relabelled", str(tmp_path), split="mine")))


@pytest.mark.skipif(not SHAPES.is_dir(), reason="the real data are not here")
@pytest.mark.parametrize("name", ["train_tiny", "train_small", "syget_val_iid", "val"])
def test_the_official_answers_come_out(name):
    with np.load(SHAPES / f"{name}.npz") as arrays:
        grids = read_grids(arrays["images"])
    for line in (SHAPES / f"{name}.jsonl").read_text().splitlines():
        row = json.loads(line)
        cells = hits(row["question"], grids)[row["index"]]
        assert cells.any() == (row["answer"] == "true"), row


@pytest.mark.skipif(not SHAPES.is_dir(), reason="the real data are not here")
def test_the_recipe_learns_no_question_that_it_is_validated_on():
    """64 pictures of each set are asked every question that all of them are."""
    recipe = read_recipe(CONFIGS / "shapes.toml")
    learned, asked = (
        {
            turn.question
            for config in configs
            for sample in islice(read(replace(config, path=str(SHAPES))), most)
            for turn in sample.turns
        }
        for configs, most in ((recipe.data, 64), (recipe.validate, None))
    )
    assert len(learned) == 1606
    assert len(asked) == 16
    assert not learned & asked


def test_the_parts_of_a_data_set_share_no_picture_and_lose_none():
    learned = DataConfig("folder", "there", part=(0.0, 0.8))
    kept = DataConfig("folder", "elsewhere", part=(0.8, 1.0))
    keys = [f"/data/{number}.png" for number in range(2000)]
    both = [learned.holds(key) + kept.holds(key.replace("data", "moved")) for key in keys]
    assert both == [1] * len(keys)
    assert sum(map(learned.holds, keys)) / len(keys) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("part", [(0.0,), (0.5, 0.5), (-0.1, 1.0), (0.0, 1.1)])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(LoupeError, match=r"part=.*give it as \[0\.0, 0\.9\]"):
        DataConfig("folder", "there", part=part)
