"""What every segmenter of the registry must do, whatever it wraps."""

import pytest
import tiny
import torch

from adapters.registry import SEGMENTERS
from qformer.contracts import RegionError, SegmentPrompt, StoppedError
from qformer.proposals import Everything

every_segmenter = pytest.mark.parametrize("name", [n for n in tiny.SEGMENTER if n != "sam3"])
with_text = pytest.mark.parametrize("name", ["sam", "sam3", "sam3_video"])
# A SAM 3 folder without its tracker takes no clicks: test_segmenters.py has what it does.
ALL = Everything(points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0)


@pytest.fixture(scope="session")
def part(tiny_folder):
    """part("vit"): the tiny segmenter of that name, opened once."""
    opened = {}

    def open_part(name):
        if name not in opened:
            opened[name] = SEGMENTERS[tiny.SEGMENTER[name]](tiny_folder(name))
        return opened[name]

    return open_part


CLICK = SegmentPrompt(points=((30.0, 20.0, 1),))
PROMPTS = {
    "click": CLICK,
    "exclude": SegmentPrompt(points=((30.0, 20.0, 1), (5.0, 5.0, 0))),
    "box": SegmentPrompt(box=(10.0, 5.0, 40.0, 30.0)),
    "box and click": SegmentPrompt(points=((30.0, 20.0, 1),), box=(10.0, 5.0, 40.0, 30.0)),
}


@every_segmenter
@pytest.mark.parametrize("prompt", PROMPTS)
def test_region_masks_have_the_pictures_size_best_first(part, name, prompt, image):
    segmenter = part(name)
    segmentation = segmenter.segment(segmenter.encode(image), PROMPTS[prompt])
    count = 3 if prompt == "click" else 1  # a lone click is ambiguous
    assert [one.shape for one in segmentation.region_masks] == [image.shape[:2]] * count
    assert {one.dtype for one in segmentation.region_masks} == {torch.bool}
    assert segmentation.scores.shape == (count,)
    assert segmentation.scores.tolist() == sorted(segmentation.scores.tolist(), reverse=True)
    assert len(segmentation.logits) == count


@every_segmenter
def test_earlier_logits_refine(part, name, image):
    segmenter = part(name)
    embedding = segmenter.encode(image)
    before = segmenter.segment(embedding, CLICK)
    if not segmenter.capabilities.logits:
        pytest.skip("reads no logits")
    again = SegmentPrompt(CLICK.points, logits=before.logits[0])
    after = segmenter.segment(embedding, again)
    assert after.logits.shape == (1, *before.logits.shape[1:])
    alone = segmenter.segment(embedding, SegmentPrompt(logits=before.logits[0]))
    assert [one.shape for one in alone.region_masks] == [image.shape[:2]]


@every_segmenter
@pytest.mark.parametrize("size", [(1, 1), (1, 200), (64, 64), (200, 90)])
def test_any_picture_size_is_segmented(part, name, size):
    segmenter = part(name)
    picture = torch.zeros(*size, 3, dtype=torch.uint8)
    segmentation = segmenter.segment(segmenter.encode(picture), SegmentPrompt(((0.0, 0.0, 1),)))
    assert {one.shape for one in segmentation.region_masks} == {size}


@every_segmenter
def test_an_empty_prompt_is_an_error(part, name, image):
    segmenter = part(name)
    with pytest.raises(RegionError, match="nothing is pointed at"):
        segmenter.segment(segmenter.encode(image), SegmentPrompt())


@every_segmenter
def test_an_embedding_of_another_model_is_refused(part, name, image):
    segmenter = part(name)
    embedding = segmenter.encode(image)
    segmenter.check(embedding, image)
    other = type(embedding)(
        embedding.features, embedding.size, embedding.scaled_size, "sam-0123", embedding.picture
    )
    with pytest.raises(RegionError, match=r"made by another model \(sam-0123"):
        segmenter.segment(other, CLICK)


@every_segmenter
def test_an_embedding_of_another_picture_is_refused(part, name, image):
    segmenter = part(name)
    with pytest.raises(RegionError, match="of another picture"):
        segmenter.everything(image.flip(0), ALL, embedding=segmenter.encode(image))


@every_segmenter
def test_an_embedding_is_as_large_for_any_picture(part, name):
    segmenter = part(name)
    sizes = {
        segmenter.encode(torch.zeros(*size, 3, dtype=torch.uint8)).bytes
        for size in [(1, 1), (30, 40), (500, 20)]
    }
    assert len(sizes) == 1


@every_segmenter
def test_logits_of_another_size_are_refused(part, name, image):
    segmenter = part(name)
    if not segmenter.capabilities.logits:
        pytest.skip("reads no logits")
    prompt = SegmentPrompt(CLICK.points, logits=torch.zeros(7, 9))
    with pytest.raises(RegionError, match=r"the earlier logits are \(7, 9\) and"):
        segmenter.segment(segmenter.encode(image), prompt)


@every_segmenter
def test_two_hundred_clicks_are_read_or_refused(part, name, image):
    segmenter = part(name)
    prompt = SegmentPrompt(tuple((i % 60, i % 40, 1) for i in range(200)))
    embedding = segmenter.encode(image)
    if segmenter.capabilities.max_points is None:
        (region_mask,) = segmenter.segment(embedding, prompt).region_masks
        assert region_mask.shape == (40, 60)
    else:
        with pytest.raises(RegionError, match=r"reads at most .* not 200"):
            segmenter.segment(embedding, prompt)


@every_segmenter
def test_a_prompt_it_was_not_trained_for_is_refused_or_warned_about(part, name, image):
    segmenter = part(name)
    able, embedding = segmenter.capabilities, segmenter.encode(image)
    for able_to, prompt in (
        (able.negatives, PROMPTS["exclude"]),
        (able.boxes, PROMPTS["box"]),
        (able.box_and_points, PROMPTS["box and click"]),
        (able.logits, SegmentPrompt(CLICK.points, logits=torch.zeros(2 * [segmenter.low_size]))),
    ):
        try:
            warned = bool(segmenter.segment(embedding, prompt).warnings)
        except RegionError:
            warned = True
        assert warned == (not able_to)


@with_text
def test_text_is_found_or_refused(part, name, image):
    segmenter = part(name)
    if segmenter.capabilities.text:
        assert isinstance(segmenter.find(segmenter.encode(image), "a cat"), list)
    else:
        with pytest.raises(RegionError, match="reads no text"):
            segmenter.find(segmenter.encode(image), "a cat")


@every_segmenter
def test_everything_reports_its_progress_and_what_it_finds_lies_in_the_picture(part, name, image):
    segmenter, told = part(name), []
    found = segmenter.everything(image, ALL, progress=lambda *at: told.append(at))
    assert told == [(8, 9), (9, 9)]
    assert found
    for one in found:
        mask = one.region_mask
        assert mask.shape == image.shape[:2]
        assert one.area == mask.sum()
        ys, xs = mask.nonzero().T
        assert one.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)


@every_segmenter
def test_everything_can_be_stopped(part, name, image):
    told = []
    settings = Everything(points_per_side=3, points_per_batch=1)
    with pytest.raises(StoppedError):
        part(name).everything(
            image, settings, lambda *at: told.append(at), cancel=lambda: len(told) == 4
        )
    assert told[-1] == (4, 9)


@every_segmenter
def test_batches_of_clicks_change_nothing(part, name, image):
    segmenter = part(name)
    once, again = (
        segmenter.everything(
            image,
            Everything(3, batch, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1),
        )
        for batch in (9, 2)
    )
    assert len(once) == len(again) > 3
    assert [one.box for one in once] == [one.box for one in again]
