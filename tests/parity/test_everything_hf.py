"""Everything mode against transformers' mask-generation pipeline, on the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.defaults import folder_of
from adapters.registry import SEGMENTERS
from adapters.vision import Normalisation
from qformer.proposals import Everything, from_runs

SCENE = sorted((Path(__file__).parents[2] / "demo" / "examples").glob("*.png"))[0]
ARCHITECTURES = {"sam": "SamModel", "sam_hq": "SamHQModel"}


def greedy(boxes, scores, threshold):
    """Non-maximum suppression as torchvision documents it; returns indices."""
    order, kept = scores.argsort(descending=True, stable=True).tolist(), []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for index in order:
        for other in kept:
            low = torch.maximum(boxes[index, :2], boxes[other, :2])
            high = torch.minimum(boxes[index, 2:], boxes[other, 2:])
            shared = (high - low).clamp(min=0).prod()
            if shared / (areas[index] + areas[other] - shared) > threshold:
                break
        else:
            kept.append(index)
    return kept


def pipeline(folder, architecture):
    """Theirs, with the one step that needs torchvision replaced."""
    import transformers
    from transformers import MaskGenerationPipeline
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    class Processor(SamImageProcessorPil):
        def post_process_for_mask_generation(self, masks, scores, boxes, threshold):
            kept = greedy(boxes.float(), scores, threshold)
            return [masks[i] for i in kept], scores[kept], [masks[i] for i in kept], boxes[kept]

    model = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32)
    for module in model.mask_decoder.transformer.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5
    size, normal = model.config.vision_config.image_size, Normalisation.open(folder)
    processor = Processor(
        size={"longest_edge": size}, pad_size={"height": size, "width": size},
        image_mean=normal.mean, image_std=normal.std,
    )  # fmt: skip
    return MaskGenerationPipeline(model=model, image_processor=processor, device="cpu")


def gap(values):
    """The middle of the widest gap between the middle values: rounding crosses it for neither."""
    values = np.sort(values)[len(values) // 3 : 2 * len(values) // 3]
    widest = np.diff(values).argmax()
    return float(values[widest : widest + 2].mean())


def assert_same(ours, theirs):
    assert len(ours) == len(theirs["masks"])
    scores = torch.tensor([one.score for one in ours])
    torch.testing.assert_close(scores, theirs["scores"], rtol=0, atol=1e-5)
    for one, rle in zip(ours, theirs["rle_mask"], strict=True):
        expected = from_runs(torch.tensor(rle["counts"]), tuple(rle["size"]))
        assert (one.region_mask != expected).sum() <= 2  # a logit within 1e-6 of nothing


def test_trained_weights_give_the_same_areas_in_the_same_order():
    """The embedded default's segmenter on a painted scene, by its own thresholds and by SAM's."""
    folder = folder_of("paintings").parent / "segmenter"
    picture = Image.open(SCENE).convert("RGB").resize((400, 300))
    segmenter = SEGMENTERS["sam"](folder)
    for settings in (segmenter.settings(Everything(12, 32)), Everything(12, 32, 0.88, 0.95, 1.0)):
        ours = segmenter.everything(torch.from_numpy(np.array(picture)), settings)
        theirs = pipeline(folder, "SamModel")(
            picture, points_per_crop=12, points_per_batch=32, output_rle_mask=True,
            pred_iou_thresh=settings.pred_iou_thresh,
            stability_score_thresh=settings.stability_score_thresh,
            stability_score_offset=settings.stability_score_offset,
        )  # fmt: skip
        assert len(ours) >= 2
        assert_same(ours, theirs)


@pytest.mark.parametrize("size", [(90, 61), (50, 128)])
@pytest.mark.parametrize("name", ["sam", "sam_hq"])
def test_random_weights_give_the_same_areas_in_the_same_order(tiny_folder, name, size):
    folder = tiny_folder(name)
    noise = np.random.default_rng(3).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    segmenter, image = SEGMENTERS[name](folder), torch.from_numpy(np.array(picture))
    # Random masks reach all over the picture: no suppression, but thresholds that cut the middle.
    offset = 0.02
    loose = Everything(9, 64, 0.0, 0.0, stability_score_offset=offset, box_nms_thresh=1.0)
    every = segmenter.everything(image, loose)
    iou = gap([one.score for one in every])
    stable = gap([one.stability for one in every if one.score > iou])
    ours = segmenter.everything(image, Everything(9, 16, iou, stable, offset, box_nms_thresh=1.0))
    theirs = pipeline(folder, ARCHITECTURES[name])(
        picture, points_per_crop=9, points_per_batch=16, pred_iou_thresh=iou,
        stability_score_thresh=stable, stability_score_offset=offset, crops_nms_thresh=1.0,
        output_rle_mask=True,
    )  # fmt: skip
    assert 3 <= len(ours) < len(every)
    assert_same(ours, theirs)
