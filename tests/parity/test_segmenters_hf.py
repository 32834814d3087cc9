"""The segmenter adapters against transformers' own models, on tiny random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adapters.registry import SEGMENTERS
from adapters.roi import roi_align
from adapters.segmenter_mobilesam import renamed
from adapters.tinyvit import TinyVit, TinyVitConfig
from qformer.contracts import SegmentPrompt

ARCHITECTURES = {
    "sam": "SamModel", "sam_hq": "SamHQModel", "sam2": "Sam2Model",
    "sam3_tracker": "Sam3TrackerModel", "sam3_video": "Sam3TrackerModel",
}  # fmt: skip
PROMPTS = {
    "click": SegmentPrompt(((30.0, 20.0, 1),)),
    "clicks": SegmentPrompt(((30.0, 20.0, 1), (5.0, 9.0, 0), (50.0, 8.0, 1))),
    "box": SegmentPrompt(box=(10.0, 5.0, 40.0, 30.0)),
    "box and click": SegmentPrompt(((20.0, 20.0, 1),), (10.0, 5.0, 40.0, 30.0)),
    "logits": SegmentPrompt(((30.0, 20.0, 1),), logits=torch.zeros(0)),
}


def theirs(folder, name):
    import transformers

    model_class = getattr(transformers, ARCHITECTURES[name])
    model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    if name in ("sam", "sam_hq"):  # as released; transformers' configs say 1e-6
        for module in model.mask_decoder.transformer.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-5
    return model


@pytest.fixture(scope="module")
def pair(tiny_folder):
    """pair("sam2"): ours and theirs."""
    made = {}

    def both(name):
        if name not in made:
            folder = tiny_folder(name)
            made[name] = SEGMENTERS[name](folder), theirs(folder, name)
        return made[name]

    return both


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("case", PROMPTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_masks_and_scores_are_transformers(pair, image, name, case, several):
    ours, model = pair(name)
    prompt = PROMPTS[case]
    if prompt.logits is not None:
        generator = torch.Generator().manual_seed(5)
        side = ours.low_size
        prompt = SegmentPrompt(prompt.points, logits=torch.randn(side, side, generator=generator))
    pixel_values, _ = ours.preprocess(image)
    embedding = ours.encode(image)
    scale = torch.tensor(embedding.scale)
    given = {"pixel_values": pixel_values[None], "multimask_output": several}
    if prompt.points:
        points = torch.tensor(prompt.points)
        given["input_points"] = (points[:, :2] * scale)[None, None]
        given["input_labels"] = points[None, None, :, 2].long()
    if prompt.box:
        given["input_boxes"] = (torch.tensor(prompt.box) * scale.repeat(2))[None, None]
    if prompt.logits is not None:
        given["input_masks"] = prompt.logits[None, None]
    expected = model(**given)
    logits, scores = ours.asked(embedding, prompt, several)
    torch.testing.assert_close(logits, expected.pred_masks[0, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(scores, expected.iou_scores[0, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "exemplars", [(), (((8.0, 6.0, 30.0, 33.0), 1), ((40.0, 2.0, 55.0, 20.0), 0))]
)
@pytest.mark.parametrize("name", ["sam3", "sam3_video"])
@torch.no_grad()
def test_what_fits_a_text_is_transformers(tiny_folder, image, name, exemplars):
    from transformers import AutoTokenizer, Sam3Model

    ours = SEGMENTERS[name](tiny_folder(name))
    model = Sam3Model.from_pretrained(tiny_folder(name), dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(tiny_folder(name))
    text = words("a red cat", padding="max_length", max_length=32, return_tensors="pt")
    given = {"pixel_values": ours.preprocess(image)[0][None], **text}
    if exemplars:
        corners = torch.tensor([box for box, _ in exemplars]) / torch.tensor([60, 40, 60, 40])
        low, high = corners[:, :2], corners[:, 2:]
        given["input_boxes"] = torch.cat([(low + high) / 2, high - low], 1)[None]
        given["input_boxes_labels"] = torch.tensor([[label for _, label in exemplars]])
    output = model(**given)
    # As Sam3Processor.post_process_instance_segmentation, which needs torchvision to import.
    scores = (output.pred_logits.sigmoid() * output.presence_logits.sigmoid())[0]
    threshold = float(scores.median()) - 1e-6
    chances = torch.nn.functional.interpolate(
        output.pred_masks.sigmoid(), (40, 60), mode="bilinear", align_corners=False
    )[0]
    kept = [i for i in scores.argsort(descending=True) if scores[i] > threshold]
    kept = [i for i in kept if (chances[i] > 0.5).any()]
    found = ours.find(ours.encode(image), "a red cat", exemplars, threshold)
    assert len(found) >= 2
    for one, index in zip(found, kept, strict=True):
        assert one.score == pytest.approx(float(scores[index]), abs=1e-5)
        assert (one.region_mask != (chances[index] > 0.5)).sum() <= 2


def sampled(feature, y, x):
    """Bilinear by the book, at one place; zero beyond the edge."""
    height, width = feature.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    low_y, low_x = min(int(y), height - 1), min(int(x), width - 1)
    high_y, high_x = min(low_y + 1, height - 1), min(low_x + 1, width - 1)
    down = 0.0 if low_y >= height - 1 else y - low_y
    across = 0.0 if low_x >= width - 1 else x - low_x
    top = feature[low_y, low_x] * (1 - across) + feature[low_y, high_x] * across
    bottom = feature[high_y, low_x] * (1 - across) + feature[high_y, high_x] * across
    return float(top * (1 - down) + bottom * down)


@pytest.mark.parametrize("box", [(0.0, 0.0, 6.0, 5.0), (1.3, 0.4, 5.9, 4.7), (2.0, 2.0, 2.1, 2.1),
                                 (-3.0, -2.0, 9.0, 8.0)])  # fmt: skip
def test_features_of_a_box_are_means_of_bilinear_samples(box):
    feature = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    x0, y0, x1, y1 = box
    down, across = max(y1 - y0, 1.0) / 3, max(x1 - x0, 1.0) / 3
    rows, columns = int(np.ceil(down)), int(np.ceil(across))
    expected = torch.zeros(3, 3)
    for row in range(3):
        for column in range(3):
            values = [
                sampled(
                    feature,
                    y0 + (row + (i + 0.5) / rows) * down,
                    x0 + (column + (j + 0.5) / columns) * across,
                )
                for i in range(rows)
                for j in range(columns)
            ]
            expected[row, column] = sum(values) / len(values)
    pooled = roi_align(feature[None, None], [torch.tensor([box])], 3)
    torch.testing.assert_close(pooled[0, 0], expected, rtol=0, atol=1e-5)


def test_mobilesams_names_go_to_transformers_and_back(tiny_folder):
    weights = load_file(tiny_folder("mobilesam") / "model.safetensors")
    ours = [renamed(name) for name in weights]
    assert len(set(ours)) == len(ours)
    assert [renamed(name, to_release=True) for name in ours] == list(weights)
    for name in (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.mask_downscaling.6.weight",
        "mask_decoder.transformer.layers.1.norm4.bias",
        "mask_decoder.output_hypernetworks_mlps.2.layers.2.weight",
        "image_encoder.layers.1.blocks.0.attn.attention_biases",
        "image_encoder.layers.0.blocks.0.conv1.bn.running_var",
    ):
        assert name in weights, name


def test_mobilesam_decodes_as_sam(tiny_folder, image):
    """The decoder's weights from one into the other: same masks for the same features."""
    sam, mobile = (
        SEGMENTERS["sam"](tiny_folder("sam")),
        SEGMENTERS["mobilesam"](tiny_folder("mobilesam")),
    )
    for part in ("prompt_encoder", "mask_decoder", "shared_image_embedding"):
        own = getattr(sam.model, part).state_dict()
        getattr(mobile.model, part).load_state_dict(own)
    mobile.positions.copy_(mobile.model.get_image_wide_positional_embeddings())
    embedding = sam.encode(image)
    for prompt in (PROMPTS["clicks"], PROMPTS["box"]):
        expected = sam.asked(embedding, prompt, True)
        torch.testing.assert_close(mobile.asked(embedding, prompt, True), expected)


def drawn(state):
    """Weights from names alone, the same everywhere; the golden numbers were made with them."""
    weights = {}
    for name, value in state.items():
        if not value.is_floating_point():
            weights[name] = value
            continue
        numbers = torch.randn(
            value.shape, generator=torch.Generator().manual_seed(sum(map(ord, name)))
        )
        if name.endswith("running_var"):
            numbers = numbers.abs() + 0.5
        elif value.dim() > 1:
            numbers = numbers / value[0].numel() ** 0.5
        else:
            numbers = numbers * 0.3 + name.endswith("weight")
        weights[name] = numbers
    return weights


@torch.no_grad()
def test_tinyvit_encodes_as_mobilesams_release_does():
    """tests/golden/mobilesam_tiny.safetensors: every 7th row and 5th column of what the release's
    TinyViT makes of smoothed noise, with narrower stages."""
    golden = load_file(Path(__file__).parents[1] / "golden" / "mobilesam_tiny.safetensors")
    config = TinyVitConfig(widths=(16, 32, 32, 320), depths=(1, 1, 2, 1), heads=(1, 2, 2, 10))
    model = TinyVit(config).eval()
    model.load_state_dict(drawn(model.state_dict()))
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    pixels = torch.nn.functional.interpolate(noise, (1024, 1024), mode="bilinear")
    found = model(pixels)[:, :, ::7, ::5]
    torch.testing.assert_close(found, golden["out.image_embedding"], rtol=0, atol=1e-3)
