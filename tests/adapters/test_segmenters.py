"""Choosing and opening a segmenter, and what each family says it cannot do."""

import pytest
import torch

from adapters import segmenters
from adapters.registry import SEGMENTERS
from adapters.segmenters import KNOWN, default_name, open_segmenter
from qformer.contracts import CheckpointError, RegionError, SegmentPrompt

CLICK = SegmentPrompt(((30.0, 20.0, 1),))


def test_every_short_name_is_of_a_kind_that_opens():
    for name, known in KNOWN.items():
        assert known.kind in SEGMENTERS, name
        assert segmenters.HUB_ID.fullmatch(known.hub), name


def test_a_short_name_opens_its_hub_id(monkeypatch):
    asked = []

    def open_it(source, dtype, **options):
        asked.append((source, options))

    monkeypatch.setitem(SEGMENTERS, "sam2", open_it)
    monkeypatch.setitem(SEGMENTERS, "efficientsam", open_it)
    open_segmenter("sam2.1-tiny")
    open_segmenter("efficientsam-s")
    assert asked == [
        ("facebook/sam2.1-hiera-tiny", {}),
        ("merve/EfficientSAM", {"file": "efficient_sam_vits.pt"}),
    ]


def test_the_default_depends_on_the_device_and_on_the_hub(monkeypatch):
    monkeypatch.setattr(segmenters, "available", lambda hub: True)
    assert default_name("cpu") == "sam2.1-tiny"
    assert default_name("cuda:0") == "sam2.1-base-plus"
    monkeypatch.setattr(segmenters, "available", lambda hub: False)
    assert default_name("cpu") == "embedded"
    assert open_segmenter("auto").family == "sam"


def test_a_folder_opens_by_its_kind(tiny_folder):
    for name in ("sam_hq", "sam2", "sam3_tracker", "efficientsam", "mobilesam"):
        assert open_segmenter(tiny_folder(name)).family == name
    assert open_segmenter(tiny_folder("lite_sam")).family == "lite-sam"


def test_a_name_that_is_none_gets_the_nearest(tmp_path):
    with pytest.raises(CheckpointError, match=r"did you mean 'sam2\.1-tiny'\?"):
        open_segmenter("sam2-tiny")
    (tmp_path / "other.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a release's weight file; known: efficient_sam"):
        open_segmenter(tmp_path / "other.pt")


def test_a_checkpoint_of_another_architecture_is_refused(tiny_folder):
    with pytest.raises(CheckpointError, match="is a 'vit' model; as segmenters"):
        open_segmenter(tiny_folder("vit"))
    for kind in ("sam", "sam_hq", "sam2", "sam3", "sam3_tracker"):
        other = "sam" if kind != "sam" else "sam2"
        with pytest.raises(CheckpointError, match=f"is a '{other}' model, not"):
            SEGMENTERS[kind](tiny_folder(other))
    for kind in ("efficientsam", "mobilesam", "lite_sam"):
        with pytest.raises(CheckpointError):
            SEGMENTERS[kind](tiny_folder("sam"))


def test_edgetam_says_what_is_missing(tiny_folder, monkeypatch):
    import importlib

    def absent(name):
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(CheckpointError, match=r"torchvision cannot be imported .* mobilesam"):
        SEGMENTERS["edgetam"](tiny_folder("sam2"))


def test_sam3_without_its_tracker_finds_by_text_and_says_that_it_takes_no_clicks(
    tiny_folder, image
):
    segmenter = open_segmenter(tiny_folder("sam3"))
    embedding = segmenter.encode(image)
    with pytest.raises(RegionError, match="reads no clicks"):
        segmenter.segment(embedding, CLICK)
    with pytest.raises(RegionError, match="reads no clicks"):
        segmenter.everything(image)
    with pytest.raises(RegionError, match="there is nothing to find"):
        segmenter.find(embedding, "  ")


def test_sam3s_two_halves_run_their_common_backbone_once(tiny_folder, image):
    segmenter = open_segmenter(tiny_folder("sam3_video"))
    backbone, ran = segmenter.detector.vision_encoder.backbone, []
    assert segmenter.model.vision_encoder.backbone is backbone
    handle = backbone.backbone.register_forward_hook(lambda *_: ran.append(1))
    segmenter.encode(image)
    handle.remove()
    assert len(ran) == 1
    assert backbone.output is None  # nothing of the picture is kept there


def test_efficientsam_warns_of_what_it_was_not_trained_for(tiny_folder, image):
    segmenter = open_segmenter(tiny_folder("efficientsam"))
    embedding = segmenter.encode(image)
    found = segmenter.segment(embedding, SegmentPrompt(((30.0, 20.0, 1), (5.0, 5.0, 0))))
    assert "never trained on clicks that exclude" in found.warnings[0]
    refined = SegmentPrompt(CLICK.points, logits=torch.zeros(4, 4))
    assert "reads no earlier mask" in segmenter.segment(embedding, refined).warnings[0]
    seven = SegmentPrompt(tuple((float(x), 5.0, 1) for x in range(5)), (1.0, 1.0, 30.0, 30.0))
    with pytest.raises(RegionError, match=r"at most 6 points \(a box is two\), not 7"):
        segmenter.segment(embedding, seven)


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000), (6000, 8000)])
def test_pictures_of_extreme_shape_are_encoded_and_clicked(tiny_folder, size):
    """The largest has 48 megapixels: as many as a click may cost, one mask at a time."""
    segmenter = open_segmenter(tiny_folder("sam2"))
    embedding = segmenter.encode(torch.zeros(*size, 3, dtype=torch.uint8))
    edge = SegmentPrompt(((size[1] - 1.0, size[0] - 1.0, 1), (0.0, 0.0, 1)))
    (region_mask,) = segmenter.segment(embedding, edge).region_masks
    assert region_mask.shape == size


def test_a_click_takes_the_part_it_lies_on_and_nothing_else(tiny_folder, image, monkeypatch):
    segmenter = open_segmenter(tiny_folder("sam"))
    embedding, low = segmenter.encode(image), segmenter.low_size
    two = torch.full((2, low, low), -3.0)
    two[:, 1:4, 1:4] = two[:, -4:-1, -4:-1] = 5.0
    two[1, :5, :5] = -3.0  # the second reading lacks the first part
    monkeypatch.setattr(segmenter, "asked", lambda *_: (two, torch.tensor([0.4, 0.9])))
    as_it_is = segmenter.segment(embedding, SegmentPrompt(((3.0, 3.0, 1),)))
    assert torch.equal(as_it_is.logits, two.flip(0))
    segmenter.click_reach = 1
    found = segmenter.segment(embedding, SegmentPrompt(((3.0, 3.0, 1),)))
    assert found.scores.tolist() == pytest.approx([0.4])
    assert torch.equal(found.logits[0] > 0, (two[0] > 0) & (torch.arange(low) < 5))
    assert found.region_masks[0][:10, :10].any()
    assert not found.region_masks[0][20:, 20:].any()
    corner = SegmentPrompt(((image.shape[1] - 1.0, 1.0, 1),))
    with pytest.raises(RegionError, match="nothing stands out at"):
        segmenter.segment(embedding, corner)


def test_the_embedded_default_says_so_where_nothing_stands():
    segmenter = open_segmenter("embedded")
    picture = torch.full((120, 160, 3), 190, dtype=torch.uint8)
    picture[40:70, 30:60] = torch.tensor([200, 30, 30], dtype=torch.uint8)
    embedding = segmenter.encode(picture)
    found = segmenter.segment(embedding, SegmentPrompt(((45.0, 55.0, 1),)))
    assert found.region_masks[0][55, 45]
    with pytest.raises(RegionError, match="nothing stands out at"):
        segmenter.segment(embedding, SegmentPrompt(((130.0, 100.0, 1),)))
