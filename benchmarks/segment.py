"""Segmenters side by side: a picture, a click, everything; against the bare decoder and pipeline.

Random weights: what a picture shows does not matter to the time it takes. Everything mode is set
beside transformers' mask-generation pipeline on the same weights and points (its NMS, which needs
torchvision, replaced by ours). Times are the processor's: others may keep the machine busy.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from adapters.efficientsam import EfficientSam, EfficientSamConfig
from adapters.images import load_image
from adapters.segmenter_efficientsam import EfficientSamSegmenter
from adapters.segmenter_mobilesam import MobileSam, MobileSamSegmenter
from adapters.segmenter_sam import SamHqSegmenter, SamSegmenter
from adapters.segmenter_sam2 import Sam2Segmenter
from adapters.segmenters import open_segmenter
from adapters.tinyvit import TinyVitConfig
from adapters.vision import IMAGENET
from benchmarks.measure import Ratio, compare, extra_memory
from qformer.contracts import SegmentPrompt
from qformer.proposals import Everything

HIERA_TINY = {
    "model_type": "sam2_hiera_det_model", "hidden_size": 96, "blocks_per_stage": [1, 2, 7, 2],
    "embed_dim_per_stage": [96, 192, 384, 768], "global_attention_blocks": [5, 7, 9],
    "num_attention_heads_per_stage": [1, 2, 4, 8],
}  # fmt: skip


def sam_vit_b() -> SamSegmenter:
    from transformers import SamConfig, SamModel

    config = SamConfig()
    config.vision_config.initializer_range = 0.02
    return SamSegmenter(SamModel(config).eval(), IMAGENET)


def sam2_tiny() -> Sam2Segmenter:
    from transformers import Sam2Config, Sam2Model

    vision = {"backbone_config": HIERA_TINY, "backbone_channel_list": [768, 384, 192, 96]}
    return Sam2Segmenter(Sam2Model(Sam2Config(vision_config=vision)).eval(), IMAGENET)


def small() -> SamSegmenter:
    """A SAM of full resolution and decoder with next to no encoder: for what comes behind it."""
    from transformers import SamConfig, SamModel

    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_dim": 64,
             "global_attn_indexes": [], "initializer_range": 0.02}  # fmt: skip
    return SamSegmenter(SamModel(SamConfig(vision_config=shape)).eval(), IMAGENET)


def sam_hq_vit_b() -> SamHqSegmenter:
    from transformers import SamHQConfig, SamHQModel

    config = SamHQConfig()
    config.vision_config.initializer_range = 0.02
    return SamHqSegmenter(SamHQModel(config).eval(), IMAGENET)


FAMILIES: dict[str, Callable[[], Any]] = {
    "sam-vit-b": sam_vit_b,
    "sam-hq-vit-b": sam_hq_vit_b,
    "sam2.1-tiny": sam2_tiny,
    "efficientsam-ti": lambda: EfficientSamSegmenter(EfficientSam(EfficientSamConfig())),
    "efficientsam-s": lambda: EfficientSamSegmenter(
        EfficientSam(EfficientSamConfig(width=384, heads=6))
    ),
    "mobilesam": lambda: MobileSamSegmenter(MobileSam(TinyVitConfig()).eval(), IMAGENET),
}


def picture(height: int = 480, width: int = 640) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)


def village() -> torch.Tensor:
    """What the embedded segmenter was trained on, (480, 640, 3)."""
    with Image.open(Path("demo/examples/village.png")) as shown:
        return load_image(shown.resize((640, 480)))


def seconds(run: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def megabytes(run: Callable[[], Any]) -> str:
    gc.collect()
    found = extra_memory(run)
    return "-" if found is None else f"{found:.0f} MB"


def family(name: str, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    repeats = arguments.repeats
    segmenter, image = FAMILIES[name](), picture()
    click = SegmentPrompt(((320.0, 240.0, 1),))
    memory = megabytes(lambda: segmenter.encode(image))
    encode = seconds(lambda: segmenter.encode(image), max(1, repeats // 5))
    embedding = segmenter.encode(image)
    clicked = seconds(lambda: segmenter.segment(embedding, click).region_masks[0], repeats)
    click_memory = megabytes(lambda: segmenter.segment(embedding, click).region_masks[0])
    millions = sum(p.numel() for p in segmenter.parameters()) / 1e6
    print(
        f"{name}: {millions:.1f}M parameters; a picture {encode:.2f} s, {memory}; a click"
        f" {clicked:.3f} s, {click_memory}; embedding {embedding.bytes / 2**20:.1f} MB",
        flush=True,
    )


def bare_click(named: str, segmenter: SamSegmenter, image: torch.Tensor, repeats: int) -> Ratio:
    """A click and the mask it shows, cleaned, at the picture's size, beside transformers' forward
    from image embeddings to low-resolution logits."""
    x, y = image.shape[1] / 2, image.shape[0] / 2
    embedding, click = segmenter.encode(image), SegmentPrompt(((x, y, 1),))
    points = torch.tensor([[[[x, y]]]]) * torch.tensor(embedding.scale)

    @torch.no_grad()
    def bare(_: None) -> None:
        segmenter.model(image_embeddings=embedding.features[0], input_points=points)

    return compare(
        f"a click on an encoded picture, {named}, ours / the bare decoder",
        lambda _: segmenter.segment(embedding, click).region_masks[0], bare, repeats,
        lambda: None, time.process_time,
    )  # fmt: skip


def thresholds(segmenter: SamSegmenter, image: torch.Tensor, per_side: int) -> tuple[float, float]:
    """Choose thresholds that keep of random masks what a trained SAM keeps: half, then half."""
    loose = Everything(per_side, 4, 0.0, 0.0, 0.02, box_nms_thresh=1.0)
    found = segmenter.everything(image, loose)
    iou = float(np.median([one.score for one in found]))
    return iou, float(np.median([one.stability for one in found if one.score > iou]))


def everything(
    named: str, segmenter: SamSegmenter, image: torch.Tensor, settings: Everything, repeats: int
) -> None:
    from transformers import MaskGenerationPipeline
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    from adapters.boxes import suppress

    class Processor(SamImageProcessorPil):
        def post_process_for_mask_generation(self, masks, scores, boxes, threshold):
            corners = [(a, b, c + 1, d + 1) for a, b, c, d in boxes.int().tolist()]
            kept = suppress(corners, scores.tolist(), threshold)
            return [masks[i] for i in kept], scores[kept], [masks[i] for i in kept], boxes[kept]

    per_side, side = settings.points_per_side, segmenter.input_size
    normal = {
        "image_mean": segmenter.mean.flatten().tolist(),
        "image_std": segmenter.std.flatten().tolist(),
        "size": {"longest_edge": side}, "pad_size": {"height": side, "width": side},
    }  # fmt: skip
    theirs = MaskGenerationPipeline(
        model=segmenter.model, image_processor=Processor(**normal), device="cpu"
    )
    photo = Image.fromarray(image.numpy())

    def pipeline(_: Any = None) -> Any:
        return theirs(
            photo, points_per_crop=per_side, points_per_batch=64,
            pred_iou_thresh=settings.pred_iou_thresh,
            stability_score_thresh=settings.stability_score_thresh,
            stability_score_offset=settings.stability_score_offset,
        )  # fmt: skip

    def ours(_: Any = None) -> Any:
        return segmenter.everything(image, settings)

    print(f"    masks: {len(pipeline()['masks'])} and {len(ours())}")
    what = f"everything, {named}, {per_side} x {per_side} clicks, transformers' pipeline / ours"
    print(compare(what, pipeline, ours, repeats, lambda: None, time.process_time), flush=True)
    print(f"    memory at the peak: {megabytes(pipeline)} / {megabytes(ours)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.segment", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=[*FAMILIES, "click", "everything"])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--points", type=int, default=8, help="clicks a side of everything")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    wanted = arguments.only or [*FAMILIES, "click", "everything"]
    for name in wanted:
        if name in FAMILIES:  # each alone, so that none takes the memory that another has left
            alone = get_context("spawn").Process(target=family, args=(name, arguments))
            alone.start()
            alone.join()
    if "click" in wanted:
        torch.manual_seed(0)
        print(bare_click("SAM's own decoder, random", small(), picture(), arguments.repeats))
        trained = open_segmenter("embedded")
        print(bare_click("the embedded one", trained, village(), arguments.repeats), flush=True)
    if "everything" in wanted:
        torch.manual_seed(0)
        sized, image, repeats = small(), picture(), max(1, arguments.repeats // 3)
        iou, stable = thresholds(sized, image, arguments.points)
        random = Everything(arguments.points, None, iou, stable, 0.02)
        everything("SAM's own decoder, random", sized, image, random, repeats)
        trained = open_segmenter("embedded")
        usual = trained.settings(Everything(arguments.points))
        everything("the embedded one", trained, village(), usual, repeats)


if __name__ == "__main__":
    main()
