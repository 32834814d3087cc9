"""`loupe data photos`: what each set holds, what is kept back, and that our own reader reads it."""

import json
import re
from pathlib import Path

import pytest

from qformer.contracts import LoupeError
from train.data.inspect import main
from train.data.readers import read
from train.data.sample import Tally
from train.data.source import DataConfig
from train.photos.prepare import FLICKR_HELD, prepare

SETS = (
    "captions", "things", "expressions", "labels", "crops", "parts", "exist", "count", "colour",
    "vqa", "talk", "blank",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made")
    prepare(source, out)
    return out


def lines(made: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (made / f"{name}.jsonl").read_text().splitlines()]


def every(made: Path, name: str) -> list[dict]:
    return lines(made, name) + lines(made, f"val-{name}")


def test_the_command_writes_every_set_and_its_data_are_good(source, tmp_path, capsys):
    assert main(["photos", str(source), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path)
    for name in SETS:
        path = str(tmp_path / f"{name}.jsonl")
        found = main(["check", "folder", path, "--images", str(source)])
        assert found == 0, capsys.readouterr().out


def test_our_reader_reads_every_line(source, made):
    for name in SETS:
        tally = Tally()
        path = str(made / f"{name}.jsonl")
        samples = list(read(DataConfig("folder", path, str(source)), tally))
        assert len(samples) == len(lines(made, name))
        assert not tally.bad, tally.reasons


def test_two_runs_write_the_same(source, made, tmp_path):
    prepare(source, tmp_path)
    for name in SETS[:-1]:  # the blank pictures' names tell where they lie
        for file in (f"{name}.jsonl", f"val-{name}.jsonl"):
            assert (tmp_path / file).read_bytes() == (made / file).read_bytes()


def test_no_photo_is_both_learned_and_kept_back(made):
    learned = {line["image"] for name in SETS for line in lines(made, name)}
    kept = {line["image"] for name in SETS for line in lines(made, f"val-{name}")}
    assert learned
    assert kept
    assert not learned & kept


def test_what_is_judged_on_is_never_learned(source, made):
    dev = {
        f"photos/flickr8k/images/{line['image']}"
        for line in map(json.loads, (source / "photos/flickr8k/captions.jsonl").open())
        if line["split"] == "dev"
    }
    for name in SETS:
        images = {line["image"] for line in every(made, name)}
        assert not images & dev
        assert not [image for image in images if "coco_by" in image]


def test_of_flickr_300_photos_are_kept_back(made):
    held = {line["image"] for line in lines(made, "val-captions") if "flickr" in line["image"]}
    assert len(held) == FLICKR_HELD


def test_names_are_the_bare_noun_in_lower_case(made):
    for name in ("things", "labels", "parts"):
        for line in every(made, name):
            answer = line.get("answer", "")
            assert answer == answer.lower()
            assert not re.match(r"(a|an|the) ", answer)
    said = {line["answer"] for line in every(made, "labels") if "question" in line}
    assert {"face", "car", "beagle", "granny smith"} <= said
    assert not [name for name in said if "background" in name]


def test_stuff_is_named_as_people_say_it(made):
    said = {line["answer"] for line in every(made, "things") if "answer" in line}
    assert said == {"car", "dog", "wall"}


def test_expressions_lie_in_pixels_of_the_squashed_file(made):
    found = [line for line in every(made, "expressions") if "coco_small" in line["image"]]
    assert {tuple(line["regions"][0]["box"]) for line in found} == {(16.0, 32.0, 48.0, 64.0)}
    assert {line["answer"] for line in found if "what" in line.get("notes", "")} <= {"car"}
    assert "car" in {line.get("answer") for line in found}


def test_yes_and_no_are_balanced(made):
    for part in ("coco_nc", "flickr8k"):
        found = [line["answer"] for line in every(made, "exist") if part in line["image"]]
        assert len(found) > 20
        assert abs(found.count("yes") - found.count("no")) <= 0.1 * len(found)


def test_an_absent_thing_is_never_present(made):
    """The dog is in every other photo of coco_nc."""
    for line in every(made, "exist"):
        if "coco_nc" in line["image"] and line["notes"].endswith(" dog"):
            number = int(Path(line["image"]).stem)
            assert line["answer"] == ("yes" if number % 2 else "no")


def test_numbers_are_words(made):
    found = every(made, "count")
    assert {line["answer"] for line in found} <= {"none", "one", "two", "three", "four"}
    men = [line["answer"] for line in found if line["notes"].endswith(" men")]
    assert set(men) - {"none"} == {"two"}


def test_colours_come_from_pixels_and_from_captions(made):
    found = every(made, "colour")
    cars = {line["answer"] for line in found if line["notes"].endswith(" car")}
    assert cars == {"red"}
    jeans = {line["answer"] for line in found if line["notes"].endswith(" jeans")}
    assert jeans == {"blue"}
    dogs = {
        line["answer"] for line in found if "flickr" in line["image"] and "dog" in line["notes"]
    }
    assert dogs == {"black"}


def test_empty_answers_and_questions_without_any_are_left_out(made):
    found = {line["question"]: line for line in every(made, "vqa")}
    assert found["Who drives?"]["answers"] == ["man", "woman"]
    assert found["What is this?"]["answers"] == ["car", "auto"]
    assert "Only choices?" not in found


def test_statements_become_questions_of_yes_and_no(made):
    said = {line["question"].lower().strip("?") for line in every(made, "vqa")}
    assert any("is the car below the wall" in question for question in said)
    answers = {line["answer"] for line in every(made, "vqa") if "cat" in line["question"].lower()}
    assert answers == {"no"}


def test_a_blank_picture_gets_no_invention(source, made):
    for line in every(made, "blank"):
        assert (source / line["image"]).is_file()
        assert "nothing" in line["answer"] or line["answer"] in ("no", "none")


def test_notes_fit_the_soft_tokens(made):
    for name in SETS:
        for line in every(made, name):
            assert len(line.get("notes", "").split()) <= 12


def test_a_folder_without_the_data_is_refused(tmp_path):
    with pytest.raises(LoupeError, match=r"lacks coco_nc/instances\.json"):
        prepare(tmp_path, tmp_path / "out")
