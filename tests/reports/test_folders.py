"""Folders: results that are another's are made anew, damage is named, equal runs are equal."""

import json

import pytest
import tiny_segmenters
from PIL import Image

from adapters.checkpoint import MANIFEST, files_of, manifest_of
from adapters.vision import Normalisation
from demo import cli
from qformer.contracts import CheckpointError

LOOSE = ("--pred-iou-thresh", "0", "--stability-score-thresh", "0", "--box-nms-thresh", "1")


@pytest.fixture
def look(tmp_path, image, capsys):
    """look("--points-per-side", "2") -> (pictures looked at now, the JSON of a.png)."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(image.numpy()).save(tmp_path / "photos" / "a.png")

    def run(*words):
        asked = ["segment", tmp_path / "photos", "--everything", "--out", tmp_path / "found",
                 "--json", *LOOSE, *words]  # fmt: skip
        assert cli.main(list(map(str, asked))) == 0
        told = json.loads(capsys.readouterr().out)
        return told["done"], json.loads((tmp_path / "found" / "a.png.json").read_text())

    return run


def test_what_was_found_otherwise_is_looked_at_again(look, tmp_path, image):
    sam = tiny_segmenters.sam(tmp_path / "sam")
    first = ("--segmenter", sam, "--points-per-side", "2")
    assert look(*first)[0] == 1
    assert look(*first)[0] == 0
    done, held = look("--segmenter", sam, "--points-per-side", "3")
    assert (done, held["settings"]["points_per_side"]) == (1, 3)
    assert look("--segmenter", sam, "--points-per-side", "3", "--format", "polygons")[0] == 1
    assert look("--segmenter", sam, "--points-per-side", "3", "--clean", "0")[0] == 1
    assert look("--points-per-side", "3", "--clean", "0")[0] == 1  # the embedded default's
    Image.fromarray(image.numpy()[:20]).save(tmp_path / "photos" / "a.png")
    done, held = look("--points-per-side", "3", "--clean", "0")
    assert (done, held["size"]) == (1, [20, 60])


def test_pictures_that_are_not_read_are_counted_and_named(look, tmp_path):
    (tmp_path / "photos" / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "c.jfif", "JPEG")
    assert look("--points-per-side", "2")[0] == 2
    failure = json.loads((tmp_path / "found" / "failed.jsonl").read_text())
    assert failure["image"] == "b.heic"
    assert "save it as JPEG" in failure["error"]


def test_nothing_found_names_no_file(picture_file, tmp_path, capsys):
    words = ["segment", picture_file, "--everything", "--points-per-side", "2",
             "--pred-iou-thresh", "1", "--out", tmp_path / "none.png"]  # fmt: skip
    assert cli.main(list(map(str, words))) == 0
    assert capsys.readouterr().out == "0 areas: nothing was written\n"


@pytest.fixture
def picture_file(tmp_path, image):
    Image.fromarray(image.numpy()).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_any_flipped_bit_of_a_manifest_names_the_manifest(tmp_path):
    file = tmp_path / MANIFEST
    text = manifest_of({"config.json": "0" * 64, "a.safetensors": "1" * 64}, step=3).encode()
    for place in range(len(text)):
        for bit in (1, 4):
            data = bytearray(text)
            data[place] ^= bit
            file.write_bytes(data)
            said = MANIFEST
            try:
                same = files_of(file) == json.loads(text)["sha256"]  # white space
            except CheckpointError as error:
                same, said = True, str(error)
            assert same
            assert MANIFEST in said


@pytest.mark.parametrize(
    "change",
    [
        {"image_mean": "0"}, {"image_mean": [0.5]}, {"image_mean": [0.5, None, 0.5]},
        {"image_std": [0, 1, 1]}, {"image_std": "x"}, {"image_std": None}, {"resample": []},
        {"resample": "x"}, {"rescale_factor": 0}, {"do_normalize": 3}, {"image_mean": [True] * 3},
    ],
)  # fmt: skip
def test_picture_settings_that_mean_nothing_are_named(change):
    whole = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 3}
    with pytest.raises(CheckpointError, match=next(iter(change))):
        Normalisation.of(whole | change, "a folder")


def test_picture_settings_are_not_dropped_in_silence():
    whole = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    plain = Normalisation.of(whole | {"do_normalize": False}, "a folder")
    assert (plain.mean, plain.std) == ((0, 0, 0), (1, 1, 1))
    raw = Normalisation.of(whole | {"do_rescale": False}, "a folder")
    assert raw.mean == pytest.approx([one / 255 for one in whole["image_mean"]])
