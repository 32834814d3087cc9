"""`loupe segment --everything`, whole folders, dense captions, region files, `loupe segmenters`."""

import json

import numpy as np
import pytest
import tiny_segmenters
import torch
from PIL import Image

from adapters.rle import decode_rle
from demo import everything

LOOSE = ("--points-per-side", "3", "--pred-iou-thresh", "0", "--stability-score-thresh", "0",
         "--box-nms-thresh", "1")  # fmt: skip


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    return tiny_segmenters.sam(tmp_path_factory.mktemp("sam"))


def test_everything_is_written_as_sams_records(loupe, picture, sam, tmp_path):
    out, seen = tmp_path / "found.json", tmp_path / "seen.png"
    code, text, _ = loupe(
        "segment", picture, "--everything", "--segmenter", sam, "--out", out, "--overlay", seen,
        *LOOSE,
    )  # fmt: skip
    assert code == 0
    held = json.loads(out.read_text())
    assert held["size"] == [40, 60]
    assert held["settings"]["points_per_side"] == 3
    assert f"{len(held['annotations'])} areas" in text
    scores = [one["predicted_iou"] for one in held["annotations"]]
    assert scores == sorted(scores, reverse=True)
    for one in held["annotations"]:
        assert decode_rle(one["segmentation"]).sum() == one["area"]
        assert {"stability_score", "point_coords", "crop_box", "bbox"} <= one.keys()
    assert Image.open(seen).size == (60, 40)


def test_everything_as_polygons_and_as_pictures(loupe, picture, sam, tmp_path):
    asked = ("segment", picture, "--everything", "--segmenter", sam, *LOOSE)
    assert loupe(*asked, "--out", tmp_path / "p.json", "--format", "polygons")[0] == 0
    first = json.loads((tmp_path / "p.json").read_text())["annotations"][0]
    assert len(first["segmentation"][0]) >= 8
    code, text, _ = loupe(*asked, "--out", tmp_path / "m.png", "--json")
    assert code == 0
    assert (tmp_path / f"m-{json.loads(text)['found']}.png").exists()


def test_a_folder_is_looked_through_resumed_and_its_bad_files_counted(
    loupe, image, sam, tmp_path, monkeypatch
):
    folder, out = tmp_path / "photos", tmp_path / "photos" / "found"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png", "c.png"):
        Image.fromarray(image.numpy()).save(folder / name)
    (folder / "bad.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    asked = ("segment", folder, "--everything", "--segmenter", sam, "--out", out, *LOOSE, "--json")
    code, text, _ = loupe(*asked)
    assert code == 0
    counts = json.loads(text)
    assert (counts["pictures"], counts["done"], counts["failed"]) == (4, 3, 1)
    failure = json.loads((out / "failed.jsonl").read_text())
    assert failure["image"] == "bad.jpg"
    assert "not a picture" in failure["error"]
    whole = json.loads((out / "instances.json").read_text())
    assert [one["file_name"] for one in whole["images"]] == ["a.png", "c.png", "deep/b.png"]
    assert len(whole["annotations"]) == counts["masks"] > 0

    (out / "c.png.json").unlink()
    looked, real = [], everything.picture
    monkeypatch.setattr(everything, "picture", lambda *a: looked.append(a) or real(*a))
    again = json.loads(loupe(*asked)[1])
    assert (again["done"], again["before"], again["failed"]) == (1, 2, 1)
    assert len(looked) == 1
    assert json.loads((out / "instances.json").read_text()) == whole


def test_a_folder_without_pictures_says_so(loupe, sam, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, error = loupe(
        "segment", tmp_path / "empty", "--everything", "--segmenter", sam, "--out", tmp_path / "o"
    )
    assert code == 2
    assert "holds no picture" in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--everything", "--point", "3,3"), "leave out --point"),
        (("--everything", "--points-per-side", "0"), "points_per_side=0 must be at least 1"),
        (("--everything", "--crop-n-layers", "9"), "crop_n_layers=9"),
        (("--everything", "--segmenter", "sam9"), "there is no segmenter sam9"),
        (("--text", "a cat"), "reads no text"),
        ((), "nothing is pointed at"),
    ],
)
def test_what_cannot_be_asked_is_one_line(loupe, picture, tmp_path, words, says):
    named = ("--model", "paintings", *words)  # no note of the photos' model
    code, _, error = loupe("segment", picture, *named, "--out", tmp_path / "o.json")
    assert code == 2
    assert says in error
    assert error.count("\n") == 1


def test_a_text_is_found_with_a_segmenter_that_reads_it(loupe, picture, tmp_path):
    sam3 = tiny_segmenters.sam3(tmp_path / "sam3")
    out = tmp_path / "cats.json"
    code, _, _ = loupe("segment", picture, "--text", "a cat", "--segmenter", sam3, "--out", out)
    assert code == 0
    assert all(one["score"] > 0.3 for one in json.loads(out.read_text())["annotations"])


def test_a_click_gives_all_its_readings(loupe, picture, tmp_path):
    code, text, _ = loupe(
        "segment", picture, "--point", "30,20", "--proposals", "--out", tmp_path / "m.png", "--json"
    )
    assert code == 0
    regions = json.loads(text)["regions"]
    assert 1 < len(regions) <= 3
    assert [one["score"] for one in regions] == sorted(
        (one["score"] for one in regions), reverse=True
    )


@pytest.mark.parametrize("form", ["rle", "polygons"])
def test_a_mask_goes_in_and_comes_out_in_another_form(loupe, picture, tmp_path, form):
    made = np.zeros((40, 60), bool)
    made[5:20, 5:25] = True
    Image.fromarray(made).save(tmp_path / "in.png")
    out, back = tmp_path / "out.json", tmp_path / "back.png"
    assert (
        loupe("segment", picture, "--mask", tmp_path / "in.png", "--format", form, "--out", out)[0]
        == 0
    )
    assert loupe("segment", picture, "--mask", out, "--out", back)[0] == 0
    assert (np.asarray(Image.open(back)) == made).all()


def test_points_in_a_file_are_clicked(loupe, picture, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({"points": [[10, 10, 1]]}))
    for words, name in ((("--mask", tmp_path / "p.json"), "a"), (("--point", "10,10"), "b")):
        assert loupe("segment", picture, *words, "--out", tmp_path / f"{name}.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_dense_captions_are_those_of_each_region_alone(loupe, picture, tiny_assistant, image):
    code, text, _ = loupe("caption", picture, "--everything", *LOOSE, "--json")
    assert code == 0
    regions = json.loads(text)["regions"]
    assert len(regions) >= 2
    for one in regions[:3]:
        view = tiny_assistant.encode(image)  # anew: in each, it is region 1
        region = view.region(torch.as_tensor(decode_rle(one["segmentation"])))
        assert one["caption"] == view.caption(region)


def test_segmenters_are_listed(loupe, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, text, _ = loupe("segmenters")
    assert code == 0
    for name in ("sam-vit-b", "sam2.1-tiny", "efficientsam-ti", "mobilesam", "edgetam", "sam3"):
        assert name in text
    rows = [json.loads(line) for line in loupe("segmenters", "--measure", "--json")[1].splitlines()]
    own = next(row for row in rows if row["name"] == "embedded")
    assert own["here"]
    assert own["click_here"] > 0
    assert sum(row["default"] for row in rows) == 1
