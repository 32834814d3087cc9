"""The EfficientSAM adapter against numbers of the released implementation (tests/golden)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.efficientsam import EfficientSam, EfficientSamConfig
from adapters.grow import grow
from adapters.prompts import Prompts
from adapters.segmenter_efficientsam import EfficientSamSegmenter, save_efficientsam
from qformer.contracts import CheckpointError, SegmentPrompt

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "efficientsam_tiny.safetensors"
SHAPE = {
    "image_size": 256, "width": 48, "depth": 3, "heads": 3, "channels": 64, "decoder_mlp": 128,
    "iou_hidden": 64, "upscaling": [16, 8],
}  # fmt: skip
CASES = [
    "point", "two_points", "pos_neg", "box", "box_point", "eight_points", "three_queries", "ragged",
]  # fmt: skip
SINGLE = ["point", "box"]  # whose single mask was kept as well


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def weights(golden):
    start = "state_dict."
    return {n.removeprefix(start): v for n, v in golden.items() if n.startswith(start)}


@pytest.fixture(scope="module")
def segmenter(weights, tmp_path_factory):
    """The golden weights under the release's own names, loaded strictly."""
    folder = tmp_path_factory.mktemp("efficientsam")
    (folder / "config.json").write_text(json.dumps({"model_type": "efficientsam", **SHAPE}))
    torch.save({"model": weights}, folder / "efficient_sam_vitt.pt")
    return EfficientSamSegmenter.open(folder)


@pytest.fixture(scope="module")
def embedding(golden, segmenter):
    return segmenter.encode(golden["image_u8_hwc"])


def decode(golden, segmenter, embedding, case, several):
    points, labels = golden[f"in.{case}.points"][0], golden[f"in.{case}.labels"][0]
    scaled = points * torch.tensor(embedding.scale)
    points = torch.where(points >= 0, scaled, points)  # -1: no point
    return segmenter.decode(embedding, Prompts(points, labels.long(), several=several))


def test_a_picture_is_encoded_as_the_release_does(golden, embedding):
    torch.testing.assert_close(
        embedding.features[0], golden["out.image_embedding"], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("case", CASES)
def test_prompts_are_decoded_as_the_release_does(golden, segmenter, embedding, case):
    logits, scores = decode(golden, segmenter, embedding, case, several=True)
    torch.testing.assert_close(logits, golden[f"out.{case}.low_res"][0], rtol=0, atol=1e-4)
    torch.testing.assert_close(scores, golden[f"out.{case}.iou"][0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_the_single_mask_is_the_releases(golden, segmenter, embedding, case):
    logits, scores = decode(golden, segmenter, embedding, case, several=False)
    torch.testing.assert_close(scores, golden[f"out.{case}.iou_single"][0], rtol=0, atol=1e-4)
    if case in SINGLE:
        expected = golden[f"out.{case}.low_res_single"][0]
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", SINGLE)
def test_logits_grow_to_the_picture_as_the_release_does(golden, segmenter, embedding, case):
    low = golden[f"out.{case}.low_res"][0, 0]
    sides = segmenter.sides(embedding, low)
    full = torch.stack([grow(one, *sides) for one in low])
    torch.testing.assert_close(full, golden[f"out.{case}.masks_full"][0, 0], rtol=0, atol=1e-4)


def test_a_users_box_and_click_are_the_releases_corners_and_point(golden, segmenter, embedding):
    points = golden["in.box_point.points"][0, 0].tolist()
    labels = golden["in.box_point.labels"][0, 0].tolist()
    by_label = dict(zip(map(int, labels), points, strict=True))
    box, click = (*by_label[2], *by_label[3]), (*by_label[1], 1)
    logits, scores = segmenter.asked(embedding, SegmentPrompt((click,), box), several=True)
    torch.testing.assert_close(logits, golden["out.box_point.low_res"][0, 0], rtol=0, atol=1e-4)
    torch.testing.assert_close(scores, golden["out.box_point.iou"][0, 0], rtol=0, atol=1e-4)


def test_the_released_shapes_are_told_from_the_weights_alone(tmp_path):
    """Ti and S as released, without a config.json."""
    for width, heads, name in (
        (192, 3, "efficient_sam_vitt.pt"),
        (384, 6, "efficient_sam_vits.pt"),
    ):
        model = EfficientSam(EfficientSamConfig(width=width, heads=heads))
        folder = tmp_path / name.removesuffix(".pt")
        folder.mkdir()
        torch.save({"model": model.state_dict()}, folder / name)
        opened = EfficientSamSegmenter.open(folder).model
        assert len(opened.state_dict()) == 278  # the release's count
        assert opened.config == model.config


def test_a_folder_of_ours_opens_again(segmenter, weights, tmp_path):
    save_efficientsam(segmenter.model, tmp_path)
    again = EfficientSamSegmenter.open(tmp_path)
    assert again.tag == segmenter.tag


def test_weights_of_another_architecture_are_named(weights, tmp_path):
    config = {"model_type": "efficientsam", **SHAPE, "depth": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"12 weights missing .*blocks\.3"):
        EfficientSamSegmenter.open(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        EfficientSamSegmenter.open(tmp_path)
