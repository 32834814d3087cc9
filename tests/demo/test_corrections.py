import json

import pytest
import torch
from PIL import Image

from adapters.images import load_image
from adapters.rle import decode_rle
from demo.corrections import Corrections
from demo.session import Session
from qformer.contracts import LoupeError
from train.data.readers import read
from train.data.sample import Tally
from train.data.source import DataConfig
from train.segmenter.data import read_pictures


@pytest.fixture
def session(tiny_assistant, image):
    made = Session(lambda: tiny_assistant)
    made.open(image)
    return made


def lines(folder):
    return [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]


def test_an_answer_is_kept_as_a_line_with_its_regions(session, tmp_path):
    regions = session.picture().regions
    regions.click(10, 10)
    mark = regions.click(30, 20)
    regions.choose(1, False)
    list(session.ask("what is #2?"))
    keeper = Corrections(tmp_path / "kept")
    keeper.keep_answer(session.picture(), session.picture().talk.entries[0], "region 2 is a cup")
    (line,) = lines(tmp_path / "kept")
    assert line["conversation"] == [
        {"question": "what is region 1?", "answer": "region 1 is a cup", "regions": [1]}
    ]
    (area,) = line["regions"]
    assert decode_rle(area["rle"]).equal(mark.region.region_mask)
    kept = load_image(tmp_path / "kept" / "images" / line["image"])
    assert torch.equal(kept, session.picture().image)


def test_the_last_word_on_an_answer_is_the_one_that_is_kept(session, tmp_path):
    list(session.ask("what is this?"))
    list(session.ask("and its colour?"))
    keeper, picture = Corrections(tmp_path), session.picture()
    first, _, second, _ = picture.talk.entries
    keeper.keep_answer(picture, first, "a cup")
    keeper.keep_answer(picture, second, "red")
    keeper.keep_answer(picture, first, "a red cup")
    answers = [line["conversation"][0]["answer"] for line in lines(tmp_path)]
    assert answers == ["red", "a red cup"]
    with (tmp_path / "data.jsonl").open("a") as file:
        file.write("somebody else's\n")
    keeper.keep_answer(picture, first, None)  # not right after all
    kept = (tmp_path / "data.jsonl").read_text().splitlines()
    assert json.loads(kept[0])["conversation"][0]["answer"] == "red"
    assert kept[1:] == ["somebody else's"]


def test_training_reads_what_was_kept(session, tmp_path):
    regions = session.picture().regions
    regions.paint([(30, 20)], 5)
    list(session.ask("what is #1?"))
    keeper = Corrections(tmp_path)
    keeper.keep_answer(session.picture(), session.picture().talk.entries[0], "region 1 is a cup")
    keeper.keep_regions(session.picture(), list(regions.marks.values()))
    tally = Tally()
    (sample,) = read(DataConfig("folder", str(tmp_path)), tally)
    assert (tally.good, dict(tally.reasons)) == (1, {})
    assert (sample.turns[0].question, sample.turns[0].answers) == (
        "what is region 1?", ("region 1 is a cup",)
    )  # fmt: skip
    (pictured,) = read_pictures(tmp_path / "instances.json", tmp_path / "images")
    for area in (sample.areas[0].rle, pictured.areas[0].rle):
        assert decode_rle(area).equal(regions.marks[1].region.region_mask)
    assert torch.equal(load_image(pictured.file), session.picture().image)


def test_corrected_regions_are_kept_once_in_cocos_form(session, tmp_path):
    regions = session.picture().regions
    regions.click(10, 10)
    regions.paint([(30, 20)], 5)
    regions.rename(2, "cup")
    keeper = Corrections(tmp_path)
    for _ in range(2):
        keeper.keep_regions(session.picture(), list(regions.marks.values()))
    data = json.loads((tmp_path / "instances.json").read_text())
    assert [image["width"] for image in data["images"]] == [60]
    assert [category["name"] for category in data["categories"]] == ["cup"]
    (kept,) = data["annotations"]
    area = decode_rle(kept["segmentation"])
    assert (area == regions.marks[2].region.region_mask.numpy()).all()
    x, y, width, height = kept["bbox"]
    assert area[y : y + height, x : x + width].sum() == kept["area"] == area.sum()


def test_nothing_is_written_before_there_is_a_correction(session, tmp_path):
    keeper = Corrections(tmp_path / "kept")
    session.picture().regions.click(10, 10)
    keeper.keep_regions(session.picture(), list(session.picture().regions.marks.values()))
    assert not (tmp_path / "kept").exists()


def test_a_folder_that_cannot_be_written_is_said(session, tmp_path):
    (tmp_path / "file").write_text("")
    list(session.ask("what is this?"))
    keeper = Corrections(tmp_path / "file" / "kept")
    with pytest.raises(LoupeError, match="cannot write"):
        keeper.keep_answer(session.picture(), session.picture().talk.entries[0], "a cup")


def test_the_same_picture_is_kept_once(session, tmp_path, image):
    list(session.ask("what is this?"))
    session.open(image)
    list(session.ask("and what colour?"))
    keeper = Corrections(tmp_path)
    for picture in session.pictures.values():
        keeper.keep_answer(picture, picture.talk.entries[0], "a cup")
    assert len(lines(tmp_path)) == 2
    (file,) = (tmp_path / "images").iterdir()
    with Image.open(file) as picture:
        assert picture.size == (60, 40)
