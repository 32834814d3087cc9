"""Picture settings as the installed transformers writes and reads them, wherever it puts them."""

import json

import pytest
import tiny
import tiny_segmenters
import torch
import transformers
import whole

from adapters.build import build
from adapters.convert import convert
from adapters.segmenters import open_segmenter
from adapters.vision import open_vision_encoder
from qformer.contracts import CheckpointError

MEAN, STD = [0.1, 0.2, 0.3], [0.9, 0.8, 0.7]
SIDE = {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}


def picture(side=tiny.IMAGE_SIZE):
    torch.manual_seed(0)
    return torch.randint(0, 256, (side, side, 3), dtype=torch.uint8)


def words(folder):
    """A tokenizer, as a processor needs one."""
    whole.bert(folder / "words")
    return transformers.AutoTokenizer.from_pretrained(folder / "words")


def same_pixels(vision, folder):
    """Ours and transformers' own of a picture that has the model's size."""
    theirs = transformers.AutoImageProcessor.from_pretrained(folder)
    image = picture(vision.image_size[0])
    pixels = theirs(image.numpy(), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(vision.preprocess(image), pixels, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "processor", "pictures"),
    [
        ("clip", "CLIPProcessor", "CLIPImageProcessor"),
        ("siglip", "SiglipProcessor", "SiglipImageProcessor"),
        ("eva", "Blip2Processor", "BlipImageProcessor"),
        ("vit", None, "ViTImageProcessor"),
        ("deit", None, "DeiTImageProcessor"),
        ("dinov2", None, "BitImageProcessor"),
        ("dpt", None, "DPTImageProcessor"),
    ],
)
@pytest.mark.parametrize(
    "told",
    [
        {},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"do_normalize": False},
    ],
)
def test_pictures_are_what_transformers_own_processor_makes_of_them(
    tmp_path, kind, processor, pictures, told
):
    folder = getattr(tiny, kind)(tmp_path / kind)
    (folder / "preprocessor_config.json").unlink()
    with_crop = {"crop_size": SIDE} if "crop_size" in getattr(
        transformers, pictures)().to_dict() else {}  # fmt: skip
    size = {"shortest_edge": tiny.IMAGE_SIZE} if kind in ("clip", "dinov2") else SIDE
    images = getattr(transformers, pictures)(
        image_mean=MEAN, image_std=STD, size=size, **with_crop, **told
    )
    if processor is None:
        images.save_pretrained(folder)
    else:
        getattr(transformers, processor)(images, words(tmp_path)).save_pretrained(folder)
        assert not (folder / "preprocessor_config.json").exists()
    same_pixels(open_vision_encoder(folder), folder)


def test_the_nested_settings_come_before_a_file_beside_them(tmp_path):
    folder = tiny.clip(tmp_path / "clip")  # its preprocessor_config.json is an old one
    images = transformers.CLIPImageProcessor(
        image_mean=MEAN, image_std=STD, size={"shortest_edge": tiny.IMAGE_SIZE}, crop_size=SIDE
    )
    transformers.CLIPProcessor(images, words(tmp_path)).save_pretrained(folder)
    vision = open_vision_encoder(folder)
    assert vision.mean.flatten().tolist() == pytest.approx(MEAN)
    same_pixels(vision, folder)


def test_a_processor_without_pictures_leaves_the_file_beside_it(tmp_path):
    folder = tiny.clip(tmp_path / "clip")
    (folder / "processor_config.json").write_text(json.dumps({"num_query_tokens": 4}))
    assert open_vision_encoder(folder).mean[0].item() == pytest.approx(0.48)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="has neither preprocessor_config"):
        open_vision_encoder(folder)


@pytest.mark.parametrize("kind", ["sam", "sam_hq"])
def test_a_segmenters_own_mean_is_taken_from_its_processor(tmp_path, kind):
    folder = getattr(tiny_segmenters, kind)(tmp_path / kind)
    (folder / "preprocessor_config.json").unlink()
    images = transformers.SamImageProcessorPil(image_mean=MEAN, image_std=STD)
    name = {"sam": "SamProcessor", "sam_hq": "SamHQProcessor"}[kind]
    getattr(transformers, name)(images).save_pretrained(folder)
    segmenter = open_segmenter(folder)
    assert segmenter.mean.flatten().tolist() == pytest.approx(MEAN)
    assert segmenter.std.flatten().tolist() == pytest.approx(STD)


@pytest.mark.parametrize("kind", ["sam2", "sam3_tracker"])
def test_other_families_are_read_from_the_same_place(tmp_path, kind):
    """Their processors need torchvision to be written by; the form is the one above."""
    folder = getattr(tiny_segmenters, kind)(tmp_path / kind)
    (folder / "preprocessor_config.json").unlink()
    nested = {"image_processor": {"image_mean": MEAN, "image_std": STD, "resample": 2}}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    assert open_segmenter(folder).mean.flatten().tolist() == pytest.approx(MEAN)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_damaged_settings_are_not_replaced_by_imagenets(tmp_path, name):
    folder = tiny_segmenters.sam(tmp_path / "sam")
    (folder / name).write_text('{"image_mean": [0.1')
    with pytest.raises(CheckpointError, match=name):
        open_segmenter(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_mean": 0, "image_std": [1, 1]}, "is not three numbers"),
        ({"image_mean": None, "image_std": STD}, "is not three numbers"),
        ({"image_mean": MEAN, "image_std": [0.5, 0, 0.5]}, "divide by nothing"),
        ({"image_mean": MEAN}, "lack image_std"),
        ({"image_mean": MEAN, "image_std": STD, "resample": 0}, "resample=0"),
    ],
)
def test_settings_that_are_none_are_refused_in_a_line(tmp_path, settings, message):
    folder = tiny.vit(tmp_path / "vit")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=message):
        open_vision_encoder(folder)


@pytest.mark.parametrize(
    ("kind", "language"), [("blip2", "opt"), ("blip2", "t5"), ("instructblip", "llama")]
)
def test_whole_models_open_as_their_processor_writes_them(tmp_path, kind, language):
    folder, _ = whole.make(kind, language, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    images = transformers.BlipImageProcessor(image_mean=MEAN, image_std=STD, size=SIDE)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if kind == "blip2":
        processor = transformers.Blip2Processor(images, tokenizer, num_query_tokens=whole.QUERIES)
    else:
        asked = transformers.AutoTokenizer.from_pretrained(folder / "qformer_tokenizer")
        processor = transformers.InstructBlipProcessor(
            images, tokenizer, asked, num_query_tokens=whole.QUERIES
        )
    processor.save_pretrained(folder)
    assert not (folder / "preprocessor_config.json").exists()
    assistant = build(folder, None)
    same_pixels(assistant.vision, folder)
    image = picture(60)
    answer = assistant.encode(image).ask(whole.QUESTION)
    # What is written for others carries the same settings.
    convert(folder, tmp_path / "loupe", "loupe")
    convert(tmp_path / "loupe", tmp_path / "back", "hf")
    same_pixels(assistant.vision, tmp_path / "back")
    assert build(tmp_path / "back", None).encode(image).ask(whole.QUESTION) == answer
