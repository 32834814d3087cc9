"""What every entry of the registries must do, whatever it wraps."""

import pytest
import tiny
import torch

from adapters.registry import LANGUAGE_MODELS, SEGMENTERS, VISION_ENCODERS
from qformer.contracts import CheckpointError, Decoding, QuestionError

REGISTRIES = {"VISION": VISION_ENCODERS, "LANGUAGE": LANGUAGE_MODELS, "SEGMENTER": SEGMENTERS}
every_part = pytest.mark.parametrize(
    ("room", "name"), [(room, name) for room in REGISTRIES for name in getattr(tiny, room)]
)
every_vision = pytest.mark.parametrize("name", tiny.VISION)
every_language = pytest.mark.parametrize("name", tiny.LANGUAGE)


def opener(room, name):
    """What opens the folder of a builder of tests/tiny.py."""
    return REGISTRIES[room][getattr(tiny, room)[name]]


@pytest.fixture(scope="session")
def part(tiny_folder):
    """part("VISION", "vit"): the tiny model of that name, opened once."""
    opened = {}

    def open_part(room, name):
        if (room, name) not in opened:
            opened[room, name] = opener(room, name)(tiny_folder(name))
        return opened[room, name]

    return open_part


@pytest.mark.parametrize("room", REGISTRIES)
def test_every_entry_is_held_to_its_contract(room):
    # Other model_types of the same class; and EdgeTAM, whose encoder needs timm.
    kin = {"sam2_video", "sam3_tracker_video", "edgetam", "edgetam_video"}
    assert set(getattr(tiny, room).values()) == set(REGISTRIES[room]) - kin


@every_part
def test_a_part_is_frozen_in_gradients_and_mode(part, room, name):
    module = part(room, name)
    torch.nn.Sequential(module).train()
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(child.training for child in module.modules())


@every_part
def test_half_precision_folders_open_in_float32(part, room, name):
    assert {value.dtype for value in part(room, name).parameters()} == {torch.float32}


@every_part
def test_a_part_opens_in_the_precision_asked_for(tiny_folder, room, name):
    module = opener(room, name)(tiny_folder(name), torch.bfloat16)
    assert torch.bfloat16 in {value.dtype for value in module.parameters()}


@every_part
def test_a_folder_that_is_not_there_is_named(room, name, tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json is missing|holds none of"):
        opener(room, name)(tmp_path / "nowhere")


@every_part
def test_a_folder_without_weights_is_an_error(tiny_folder, room, name, tmp_path):
    folder = copy(tiny_folder(name), tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no \.safetensors weights|holds none of"):
        opener(room, name)(folder)


@every_part
def test_a_weight_that_is_missing_is_never_made_up(tiny_folder, room, name, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy(tiny_folder(name), tmp_path)
    weights = load_file(folder / "model.safetensors")
    inner = ("layer", "block")
    weights.pop(next(n for n in weights if any(i in n for i in inner) and n.endswith(".weight")))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights|1 weights missing"):
        opener(room, name)(folder)


def copy(source, target):
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


# Vision encoders


@every_vision
def test_shapes_follow_the_grid(part, name, image):
    vision = part("VISION", name)
    pixel_values = vision.preprocess(image)
    assert pixel_values.shape == (3, *vision.image_size)
    assert pixel_values.dtype == torch.float32
    image_embeds = vision.encode(torch.stack([pixel_values, pixel_values]))
    patches = vision.grid[0] * vision.grid[1]
    assert image_embeds.shape == (2, vision.leading_tokens + patches, vision.width)


@every_vision
def test_encoding_is_deterministic_and_sees_the_picture(part, name, image):
    vision = part("VISION", name)
    pixel_values = vision.preprocess(image)[None]
    torch.testing.assert_close(vision.encode(pixel_values), vision.encode(pixel_values))
    assert (vision.encode(pixel_values) - vision.encode(-pixel_values)).abs().max() > 1e-3


@every_vision
def test_patches_lie_row_by_row_behind_the_leading_tokens(part, name):
    vision = part("VISION", name)
    patch = vision.image_size[1] // vision.grid[1]
    dark = torch.zeros(1, 3, *vision.image_size)
    lit = dark.clone()
    row, column = 1, 2
    lit[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = 3.0
    change = (vision.encode(lit) - vision.encode(dark)).norm(dim=-1)[0, vision.leading_tokens :]
    place = divmod(int(change.argmax()), vision.grid[1])
    off = max(abs(place[0] - row), abs(place[1] - column))
    assert off <= (name in ("dpt", "align", "hybrid"))  # convolutions reach into the next patch


@every_vision
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (7, 5), (300, 500)])
def test_any_picture_size_is_stretched(part, name, size):
    vision = part("VISION", name)
    grey = torch.full((*size, 3), 128, dtype=torch.uint8)
    expected = (128 / 255 - vision.mean) / vision.std
    torch.testing.assert_close(vision.preprocess(grey), expected.expand(3, *vision.image_size))


# Language models


def prompt(language, n=7, seed=0):
    return torch.randn(n, language.width, generator=torch.Generator().manual_seed(seed))


@every_language
def test_text_survives_ids(part, name):
    language = part("LANGUAGE", name)
    text = "a small red circle, a yellow cat"
    ids = language.tokenize(text)
    assert ids.dtype == torch.int64
    assert language.decode(ids.tolist()) == text
    if name != "opt":  # BLIP-2's OPT ends with a newline, which is text
        assert language.decode([*ids.tolist(), language.eos_id]) == text
    assert language.embed(ids).shape == (len(ids), language.width)
    assert language.embed(language.start_ids()).shape == (len(language.start_ids()), language.width)


@every_language
def test_no_text_is_no_ids(part, name):
    language = part("LANGUAGE", name)
    assert language.tokenize("").shape == (0,)
    assert language.tokenize("").dtype == torch.int64
    assert language.decode([]) == ""


@every_language
@pytest.mark.parametrize("beams", [1, 3])
def test_writing_is_deterministic_and_bounded(part, name, beams):
    language = part("LANGUAGE", name)
    decoding = Decoding(max_new_tokens=6, beams=beams)
    ids = list(language.generate(prompt(language), decoding))
    assert ids == list(language.generate(prompt(language), decoding))
    assert 0 < len(ids) <= 6
    assert all(isinstance(i, int) and i != language.eos_id for i in ids)


@every_language
def test_an_answer_stop_ends_the_answer_as_eos_does(part, name):
    language = part("LANGUAGE", name)
    decoding = Decoding(max_new_tokens=6)
    ids = list(language.generate(prompt(language), decoding))
    stopped = list(language.generate(prompt(language), decoding, answer_stop=ids[-1]))
    assert stopped == ids[: ids.index(ids[-1])]


@every_language
def test_sampling_varies(part, name):
    language = part("LANGUAGE", name)
    torch.manual_seed(0)
    decoding = Decoding(max_new_tokens=6, temperature=3.0)
    assert len({tuple(language.generate(prompt(language), decoding)) for _ in range(5)}) > 1


@every_language
def test_a_prompt_beyond_the_context_is_a_question_error_with_both_numbers(part, name):
    language = part("LANGUAGE", name)
    long = prompt(language, language.context)
    with pytest.raises(QuestionError, match=rf"{language.context} tokens .* reads \d+"):
        language.generate(long, Decoding())


@every_language
def test_the_loss_is_a_token_mean_whatever_the_padding(part, name):
    language = part("LANGUAGE", name)
    prompts = [prompt(language, 3), prompt(language, 8, seed=1)]
    answers = [torch.tensor([9, 8, 7, language.eos_id]), torch.tensor([6, language.eos_id])]
    both = language.loss(prompts, answers)
    one, two = (language.loss([p], [a]) for p, a in zip(prompts, answers, strict=True))
    torch.testing.assert_close(both, (4 * one + 2 * two) / 6)
    weights = [torch.zeros(4), torch.tensor([1.0, 0.0])]
    first = language.loss([prompts[1]], [answers[1]], [torch.tensor([1.0, 0.0])])
    torch.testing.assert_close(language.loss(prompts, answers, weights), first)


@every_language
def test_gradients_reach_the_prompts_alone(part, name):
    language = part("LANGUAGE", name)
    prompts = [prompt(language, 4).requires_grad_(), prompt(language, 6).requires_grad_()]
    language.loss(prompts, [torch.tensor([5, 6]), torch.tensor([7])]).backward()
    assert all(p.grad.norm() > 0 for p in prompts)
    assert all(parameter.grad is None for parameter in language.parameters())


@every_language
def test_the_loss_is_of_what_is_written(part, name):
    """Greedy ids are the likeliest answer of their length, as far as single tokens go."""
    language = part("LANGUAGE", name)
    first = next(language.generate(prompt(language), Decoding()))
    losses = [language.loss([prompt(language)], [torch.tensor([i])]) for i in range(20, 60)]
    assert language.loss([prompt(language)], [torch.tensor([first])]) <= min(losses)
