"""`loupe data masks`: sets of many forms as one COCO data set."""

import json

import numpy as np
import pytest
from PIL import Image

from adapters.coco import read_dataset
from demo.cli import main as loupe
from qformer.contracts import LoupeError
from train.data.masks import FORMS, main
from train.segmenter.data import read_pictures


def saved(folder, name, values):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


@pytest.fixture
def sets(tmp_path):
    """A folder of each form, with a picture of 30 x 20."""
    picture = np.full((20, 30, 3), 90, np.uint8)
    labels = np.zeros((20, 30), np.uint8)
    labels[2:8, 2:8] = labels[12:18, 2:8] = 3
    labels[2:8, 8:14] = 5
    for form in ("labels", "segments", "masks"):
        saved(tmp_path / form, "images/deep/a.jpg", picture)
    saved(tmp_path / "labels", "labels/deep/a.png", labels)
    (tmp_path / "segments" / "images" / "deep" / "a.jpg").rename(
        tmp_path / "segments" / "images" / "a.jpg"
    )
    saved(tmp_path / "segments", "segments/a_0.png", labels + 1)
    saved(tmp_path / "segments", "segments/a_1.png", (labels > 0).astype(np.uint8))
    saved(tmp_path / "masks", "masks/deep/a.png", (labels == 5).astype(np.uint8) * 255)
    assert main(["masks", str(tmp_path / "masks"), "--out", str(tmp_path / "coco/coco.json")]) == 0
    (tmp_path / "coco" / "coco.json").rename(tmp_path / "coco" / "instances.json")
    held = read_dataset(tmp_path / "coco" / "instances.json")
    held["images"][0]["file_name"] = "b.jpg"
    (tmp_path / "coco" / "instances.json").write_text(json.dumps(held))
    saved(tmp_path / "coco", "images/b.jpg", picture)
    return tmp_path


def areas(file):
    return sorted(one["area"] for one in read_dataset(file)["annotations"])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("labels", [36, 36, 36, 108]),  # two parts of one class, another class, and all of them
        ("segments", [36, 72, 108, 492]),  # the rest of the picture was drawn twice and counts once
        ("masks", [36]),
        ("coco", [36]),
    ],
)
def test_each_form_gives_its_masks(sets, form, expected):
    out = sets / "out" / "all.json"
    assert loupe(["data", "masks", form, str(sets / form), "--out", str(out)]) == 0
    assert areas(out) == expected
    (picture,) = read_pictures(out, out.parent)
    assert picture.file.is_file()
    for area, covers in zip(picture.areas, picture.covers, strict=True):
        assert int(area.region_mask((20, 30)).sum()) == covers


def test_sets_are_added_and_each_weighs_what_it_is_said_to(sets, capsys):
    out = sets / "all.json"
    main(["masks", str(sets / "masks"), "--out", str(out), "--weight", "3"])
    main(["scenes", str(sets / "new"), "--count", "4", "--out", str(out), "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["pictures"], told["masks"]) == (4, len(areas(out)) - 1)
    weights = [image["weight"] for image in read_dataset(out)["images"]]
    assert weights == [3, 0.25, 0.25, 0.25, 0.25]
    once = out.read_text()
    main(["scenes", str(sets / "new"), "--count", "4", "--out", str(out)])
    assert out.read_text() == once  # the same pictures again take the place of what was there


def test_what_is_missing_is_named(sets, tmp_path):
    out = ["--out", str(tmp_path / "x.json")]
    with pytest.raises(LoupeError, match="there is no folder"):
        main(["masks", str(tmp_path / "nowhere"), *out])
    with pytest.raises(LoupeError, match="must be above 0"):
        main(["masks", str(sets / "masks"), *out, "--weight", "0"])
    with pytest.raises(LoupeError, match="holds no masks of the form 'labels'"):
        main(["labels", str(sets / "masks"), *out])
    (sets / "masks" / "images" / "deep" / "a.jpg").unlink()
    with pytest.raises(LoupeError, match=r"has no picture at .*deep/a\.jpg or \.png"):
        main(["masks", str(sets / "masks"), *out])
    saved(sets / "labels", "labels/deep/a.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(LoupeError, match="has colours"):
        main(["labels", str(sets / "labels"), *out])
    assert set(FORMS) == {"coco", "labels", "segments", "masks", "scenes"}
    assert not (tmp_path / "x.json").exists()
