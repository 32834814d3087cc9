"""The small segmenter on a convolutional trunk: what is kept, what is shared, what is read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_segmenters
import torch
from safetensors.torch import load_file, save_file

import adapters
from adapters.checkpoint import verify
from adapters.efficientnet import EfficientNetLite, open_trunk
from adapters.prompts import Prompts
from adapters.registry import SEGMENTERS
from adapters.segmenter_lite import LiteSam, LiteSamConfig, LiteSegmenter, save_lite
from adapters.segmenters import open_segmenter, save_segmenter
from qformer.contracts import CheckpointError, LoupeError, SegmentPrompt
from qformer.proposals import Everything

PHOTOS = Path(adapters.__file__).parent / "photos" / "segmenter"


@pytest.fixture(scope="module")
def segmenter(tiny_folder):
    return open_segmenter(tiny_folder("lite_sam"))


def copied(tiny_folder, folder):
    """The tiny folder again, to be changed."""
    for file in tiny_folder("lite_sam").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_the_trunks_pyramid_ends_in_what_it_says_of_a_picture():
    trunk = EfficientNetLite(tiny_segmenters.efficientnet_state())
    pixel_values = torch.randn(2, 3, 64, 96)
    maps = trunk.pyramid(pixel_values)
    assert [one.shape[1:] for one in maps] == [
        (width, 64 // stride, 96 // stride)
        for width, stride in zip(trunk.widths, (4, 8, 16, 32), strict=True)
    ]
    said = trunk(pixel_values)
    assert torch.equal(said.fine, maps[2])
    assert torch.equal(said.coarse, maps[3])


def test_a_saved_folder_holds_what_was_trained_alone_and_answers_the_same(
    segmenter, image, tmp_path, tiny_folder
):
    (tmp_path / "trunk.safetensors").write_bytes(
        (tiny_folder("lite_sam") / "trunk.safetensors").read_bytes()
    )
    save_segmenter(segmenter, tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[0] for name in names} == {"neck", "prompt_encoder", "mask_decoder"}
    assert {value.dtype for value in names.values()} == {torch.float16}
    again = open_segmenter(tmp_path)
    assert again.tag == segmenter.tag
    prompt = SegmentPrompt(((30.0, 20.0, 1),))
    one, other = (each.segment(each.encode(image), prompt) for each in (segmenter, again))
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.scores, other.scores)


def test_what_the_folder_says_of_everything_and_of_clicks_is_kept(tiny_folder, tmp_path):
    folder = copied(tiny_folder, tmp_path)
    values = json.loads((folder / "config.json").read_text())
    values |= {"everything": {"pred_iou_thresh": 0.6, "points_per_side": 5}, "click_reach": 3}
    (folder / "config.json").write_text(json.dumps(values))
    for opened in (open_segmenter(folder), open_segmenter(folder).at(96)):
        assert opened.settings().pred_iou_thresh == 0.6
        assert opened.settings(Everything(points_per_side=7)).points_per_side == 7
        assert opened.settings().points_per_side == 5
        assert opened.click_reach == 3


def test_prompts_side_by_side_are_answered_as_one_by_one(segmenter, image):
    embedding = segmenter.encode(image)
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(5, 2, 2, generator=generator) * 64
    labels = torch.tensor([[1, 0]] * 5)
    boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0]] * 5) + torch.arange(5)[:, None]
    logits = torch.randn(5, segmenter.low_size, segmenter.low_size, generator=generator)
    for given in (
        Prompts(points, labels),
        Prompts(points, labels, logits=logits, several=False),
        Prompts(None, None, boxes, several=False),
        Prompts(points, labels, boxes, logits, several=False),
        Prompts(logits=logits, several=False),
    ):
        found, scores = segmenter.decode(embedding, given)
        assert len(found) == len(scores) == 5
        for n in range(5):
            names = ("points", "labels", "boxes", "logits")
            part = {name: getattr(given, name) for name in names}
            part = {name: None if one is None else one[n : n + 1] for name, one in part.items()}
            alone, score = segmenter.decode(embedding, replace(given, **part))
            torch.testing.assert_close(found[n], alone[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(scores[n], score[0], atol=1e-5, rtol=1e-4)


def test_each_part_of_a_prompt_is_read(segmenter, image):
    embedding = segmenter.encode(image)
    click = SegmentPrompt(((30.0, 20.0, 1),))
    first = segmenter.segment(embedding, click).logits[0]
    more = [
        replace(click, points=(*click.points, (8.0, 8.0, 1))),
        replace(click, points=(*click.points, (8.0, 8.0, 0))),
        replace(click, box=(5.0, 5.0, 50.0, 30.0)),
        replace(click, logits=first),
        replace(click, logits=-first),
    ]
    answers = [segmenter.segment(embedding, prompt).logits[0] for prompt in more]
    for i, one in enumerate(answers):
        assert all(not torch.allclose(one, other, atol=1e-3) for other in answers[:i])


def test_at_another_size_its_places_are_the_same_shares_of_the_picture(segmenter, image):
    larger = segmenter.at(128)
    assert (larger.input_size, larger.low_size) == (128, 32)
    # the middle of the picture: between its four middle places at either size
    for one in (segmenter, larger):
        half = one.positions.shape[-1] // 2
        middle = one.positions[0, :, half - 1 : half + 1, half - 1 : half + 1]
        assert torch.allclose(middle[:16, 0, 0], -middle[:16, 1, 1], atol=1e-5)  # sines of +-
    found = larger.segment(larger.encode(image), SegmentPrompt(((30.0, 20.0, 1),)))
    assert found.region_masks[0].shape == image.shape[:2]
    assert larger.tag != segmenter.tag  # an embedding of the one is not the other's


def test_a_new_one_starts_with_what_a_sams_decoder_knows(tiny_folder):
    from transformers import SamConfig, SamModel

    config = tiny_segmenters.sam_config(SamConfig)
    config.mask_decoder_config.mlp_dim = 64
    sam = SamModel(config)
    for parameter in sam.parameters():
        torch.nn.init.normal_(parameter)
    trunk = EfficientNetLite(tiny_segmenters.efficientnet_state())
    model = LiteSam(trunk, LiteSamConfig(image_size=64, width=32))
    model.adopt(sam)
    held = sam.state_dict()
    known = [held[name] for name in held if not name.startswith("vision_encoder.")]
    values = sorted(float(one.double().sum()) for one in known if one.shape != (1, 32))
    mine = {float(one.double().sum()) for one in model.state_dict().values()}
    assert all(any(abs(one - other) < 1e-4 for other in mine) for one in values)
    assert torch.equal(
        model.get_image_wide_positional_embeddings(8), sam.get_image_wide_positional_embeddings()
    )
    with pytest.raises(CheckpointError, match="of another shape than one of width 32"):
        model.adopt(open_segmenter(tiny_folder("sam")).model)


def test_a_folder_that_lacks_something_says_what(tiny_folder, tmp_path):
    folder = copied(tiny_folder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    lacking = {name: value for name, value in weights.items() if name != "neck.norm.weight"}
    save_file(lacking, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 weights missing \(neck\.norm\.weight\)"):
        SEGMENTERS["lite_sam"](folder)
    (folder / "trunk.safetensors").unlink()
    with pytest.raises(CheckpointError, match="trunk"):
        SEGMENTERS["lite_sam"](folder)


def test_the_one_that_ships_is_whole_small_and_of_no_machine():
    verify(PHOTOS)
    files = [file for file in PHOTOS.iterdir() if file.name != "manifest.json"]
    assert {file.name for file in files} == json.loads((PHOTOS / "manifest.json").read_text())[
        "sha256"
    ].keys()
    assert sum(file.stat().st_size for file in files) <= 4_000_000
    config = json.loads((PHOTOS / "config.json").read_text())
    assert config["trunk"] == "package:efficientnet-lite0"


def test_a_trunk_that_is_none_is_refused(tmp_path):
    save_file({"other.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not an EfficientNet-Lite's weights"):
        open_trunk(tmp_path)
    with pytest.raises(CheckpointError, match="package:no-such-trunk is no part Loupe knows"):
        open_trunk("package:no-such-trunk")


@pytest.mark.parametrize("wrong", [{"image_size": 100}, {"image_size": 32}, {"width": 40}])
def test_settings_that_do_not_fit_say_so(wrong):
    with pytest.raises(LoupeError, match="must be a multiple of 32"):
        LiteSamConfig(**wrong)


def test_the_neck_learns_and_the_trunk_stays(segmenter, image, tmp_path):
    maps = segmenter.features(segmenter.preprocess(image)[0][None])
    for parameter in segmenter.parameters():
        parameter.requires_grad_(True)
    embedding = replace(segmenter.encode(image), features=segmenter.merge(maps))
    logits, _ = segmenter.decode(
        embedding, Prompts(torch.tensor([[[9.0, 9.0]]]), torch.tensor([[1]]))
    )
    logits.square().mean().backward()
    for name, parameter in segmenter.named_parameters():
        if name.startswith(("model.neck", "model.mask_decoder.conv_s")):
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
    segmenter.requires_grad_(False)
    assert isinstance(segmenter, LiteSegmenter)
    save_lite(segmenter, tmp_path / "new")
    assert "trunk" in json.loads((tmp_path / "new" / "config.json").read_text())
