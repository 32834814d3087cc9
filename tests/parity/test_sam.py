"""The SAM adapter against numbers of the released implementation (tests/golden)."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapters.grow import grow
from adapters.segmenter_sam import SamSegmenter
from qformer.contracts import SegmentPrompt

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sam_tiny.safetensors"
CASES = ["point", "posneg", "box", "boxpt", "point_single", "mask"]

# The release's names -> transformers'.
NAMES = [
    (r"^image_encoder\.", "vision_encoder."),
    (r"\.blocks\.", ".layers."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"(vision_encoder\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"neck\.0\.", "neck.conv1."),
    (r"neck\.1\.", "neck.layer_norm1."),
    (r"neck\.2\.", "neck.conv2."),
    (r"neck\.3\.", "neck.layer_norm2."),
    (r"prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (
        r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
        "shared_image_embedding.positional_embedding",
    ),
    (r"(transformer\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
    (r"norm_final_attn", "layer_norm_final_attn"),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"((?:mlps\.\d+|iou_prediction_head)\.)layers\.0\.", r"\1proj_in."),
    (r"((?:mlps\.\d+|iou_prediction_head)\.)layers\.1\.", r"\1layers.0."),
    (r"((?:mlps\.\d+|iou_prediction_head)\.)layers\.2\.", r"\1proj_out."),
]


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def segmenter(golden, tmp_path_factory):
    """The golden weights as a SamModel folder with transformers' own defaults, opened by us."""
    from transformers import SamConfig, SamModel

    config = SamConfig(
        vision_config={
            "hidden_size": 48,
            "output_channels": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "image_size": 256,
            "patch_size": 16,
            "window_size": 7,
            "global_attn_indexes": [1, 3],
            "mlp_dim": 192,
            "num_pos_feats": 32,
        },
        prompt_encoder_config={
            "hidden_size": 64,
            "image_size": 256,
            "patch_size": 16,
            "image_embedding_size": 16,
            "mask_input_channels": 16,
        },
        mask_decoder_config={
            "hidden_size": 64,
            "mlp_dim": 128,
            "num_attention_heads": 8,
            "iou_head_hidden_dim": 64,
        },
    )
    weights = {}
    for name, value in golden.items():
        if name.startswith("state_dict."):
            name = name.removeprefix("state_dict.")
            for old, new in NAMES:
                name = re.sub(old, new, name)
            weights[name] = value
    shared = "shared_image_embedding.positional_embedding"
    weights["prompt_encoder.shared_embedding.positional_embedding"] = weights[shared]
    model = SamModel(config)
    model.load_state_dict(weights)  # strict
    folder = tmp_path_factory.mktemp("sam")
    model.save_pretrained(folder)
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    settings = {"image_mean": [m / 255 for m in mean], "image_std": [s / 255 for s in std]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return SamSegmenter.open(folder)


@pytest.fixture(scope="module")
def embedding(golden, segmenter):
    return segmenter.encode(golden["image_u8_hwc"])


def prompt(golden, case):
    def given(name):
        return golden.get(f"in.{case}.{name}")

    points = ()
    if given("point_coords") is not None:
        pairs = zip(given("point_coords").tolist(), given("point_labels").tolist(), strict=True)
        points = tuple((x, y, int(label)) for (x, y), label in pairs)
    box = None if given("box") is None else tuple(given("box").tolist())
    logits = None if given("mask_input") is None else given("mask_input")[0]
    return SegmentPrompt(points, box, logits)


def test_a_picture_is_encoded_as_the_release_does(golden, embedding):
    torch.testing.assert_close(
        embedding.features[0], golden["out.image_embedding"], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("case", CASES)
def test_prompts_are_decoded_as_the_release_does(golden, segmenter, embedding, case):
    multimask = bool(golden[f"in.{case}.multimask"])
    logits, scores = segmenter.asked(embedding, prompt(golden, case), multimask)
    torch.testing.assert_close(logits, golden[f"out.{case}.low_res"], rtol=0, atol=1e-5)
    torch.testing.assert_close(scores, golden[f"out.{case}.iou"], rtol=0, atol=1e-5)


def test_logits_grow_to_the_picture_as_the_release_does(golden, segmenter, embedding):
    low = golden["out.point_single.low_res"][0]
    full = grow(low, *segmenter.sides(embedding, low))
    expected = golden["out.point_single.masks_logits"][0]
    torch.testing.assert_close(full, expected, rtol=0, atol=1e-5)


def test_proposals_of_a_click_are_the_releases_three_best_first(golden, segmenter, embedding):
    segmentation = segmenter.segment(embedding, prompt(golden, "point"))
    order = golden["out.point.iou"].argsort(descending=True)
    expected = golden["out.point.low_res"][order]
    torch.testing.assert_close(segmentation.logits, expected, rtol=0, atol=1e-5)
