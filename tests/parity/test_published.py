"""BLIP-2 and InstructBLIP as published: whole-picture answers equal transformers' `generate`."""

import dataclasses
import json
import re
import shutil

import pytest
import torch
from whole import QUERIES, QUESTION, make

from adapters.build import build
from adapters.memory import Count
from adapters.registry import LANGUAGE_MODELS, VISION_ENCODERS
from adapters.weights import WeightFiles
from qformer.contracts import CheckpointError, Decoding
from qformer.prompt import COMPOSERS

transformers = pytest.importorskip("transformers")


@pytest.fixture(
    scope="module",
    params=[("blip2", "opt"), ("blip2", "t5"), ("instructblip", "llama"), ("instructblip", "t5")],
    ids=lambda p: "-".join(p),
)
def published(request, tmp_path_factory):
    folder, model = make(*request.param, tmp_path_factory.mktemp("published"))
    return build(folder), model, folder


@pytest.fixture(scope="module")
def image():
    return torch.randint(0, 256, (40, 56, 3), generator=torch.Generator().manual_seed(1)).byte()


def reference(published, image, decoding):
    """New ids as the model's own `generate` writes them, from the ids its processor would make."""
    assistant, model, folder = published
    text = assistant.config.prompt.question.replace("{question}", QUESTION)
    words = assistant.language.tokenizer
    closing = [1] if model.config.text_config.model_type == "t5" else []
    ids = [
        *[model.config.image_token_index] * QUERIES,
        *words.start_ids, *words(text), *closing,
    ]  # fmt: skip
    inputs = {
        "pixel_values": assistant.vision.preprocess(image)[None],
        "input_ids": torch.tensor([ids]),
    }
    if model.config.model_type == "instructblip":
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "qformer_tokenizer")
        read = tokenizer(QUESTION, return_tensors="pt")
        inputs["qformer_input_ids"] = read["input_ids"]
        inputs["qformer_attention_mask"] = read["attention_mask"]
    written = model.generate(
        **inputs,
        do_sample=False,
        num_beams=decoding.beams,
        max_new_tokens=decoding.max_new_tokens,
        length_penalty=decoding.length_penalty,
        repetition_penalty=decoding.repetition_penalty,
    )[0].tolist()
    start = len(ids) if written[: len(ids)] == ids else int(bool(closing))
    return written[start:]


@pytest.mark.parametrize(("beams", "penalty"), [(1, 1.0), (5, 1.0), (5, -1.0)])
def test_an_answer_is_generates_token_for_token(published, image, beams, penalty, monkeypatch):
    assistant, _, _ = published
    decoding = Decoding(max_new_tokens=9, beams=beams, length_penalty=penalty)
    ids, generate = [], assistant.language.generate

    def spy(*args, **kwargs):
        for token in generate(*args, **kwargs):
            ids.append(token)
            yield token

    monkeypatch.setattr(assistant.language, "generate", spy)
    assistant.encode(image).ask(QUESTION, decoding=decoding)
    stops = set(assistant.language.stop_ids)
    expected = [token for token in reference(published, image, decoding) if token not in stops]
    assert len(expected) > 1 or penalty < 0  # which prefers short answers
    assert ids == expected


def test_another_picture_gets_another_answer(published, image):
    """Else the test above would hold for a model that never looks."""
    assistant, _, _ = published
    other = image.flip(0).contiguous()
    decoding = Decoding(max_new_tokens=9)
    soft = [
        next(iter(view.soft_tokens(plan.sources, plan.instruction).values()))
        for view in map(assistant.encode, (image, other))
        for plan in [view.converse().plan(QUESTION, (), decoding)]
    ]
    assert (soft[0] - soft[1]).abs().max() > 1e-2


@pytest.mark.parametrize("composer", COMPOSERS)
def test_regions_work_without_training(published, image, composer, monkeypatch):
    assistant, _, _ = published
    assert assistant.config.prompt.composer == "text"  # what suits a model that knows no names
    prompt = dataclasses.replace(assistant.config.prompt, composer=composer)
    config = dataclasses.replace(assistant.config, prompt=prompt)
    monkeypatch.setattr(assistant, "config", config)
    view = assistant.encode(image)
    mask = torch.zeros(40, 56, dtype=torch.bool)
    mask[5:20, 8:30] = True
    region, rest = view.region(mask), view.region(~mask)
    decoding = Decoding(max_new_tokens=4)
    assert isinstance(view.ask(QUESTION, [region], decoding), str)
    assert isinstance(view.ask(QUESTION, [region, rest], decoding), str)
    instruction = view.instruction(QUESTION, [region], None)
    tokens = view.soft_tokens({"picture": None, "region 1": region}, instruction)
    assert (tokens["picture"] - tokens["region 1"]).abs().max() > 1e-3


def test_float16_is_refused_for_t5(published):
    _, model, folder = published
    if model.config.text_config.model_type != "t5":
        build(folder, dtype=torch.bfloat16)
        return
    with pytest.raises(CheckpointError, match="T5, which overflows in float16: use bfloat16"):
        build(folder, dtype=torch.float16)


@pytest.fixture
def damaged(published, tmp_path):
    """damaged(change): a copy of the model's folder whose weights `change` has edited."""
    from safetensors.torch import load_file, save_file

    def damage(change):
        shutil.copytree(published[2], tmp_path / "model")
        weights = load_file(tmp_path / "model" / "model.safetensors")
        change(weights)
        save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
        return tmp_path / "model"

    return damage


def layernorm(weights):
    return next(name for name in weights if re.match(r"qformer\.(embeddings\.)?layernorm.w", name))


FIRST = "vision_model.encoder.layers.0.layer_norm1.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop(layernorm(w)), r"1 weights missing \(qformer.layernorm.weight\), 0 unexp"),
        (lambda w: w.update(stray=torch.ones(1)), r"0 weights missing \(none\), 1 .* \(stray\)"),
        (
            lambda w: w.update({layernorm(w): torch.ones(3)}),
            r"qformer\.layernorm\.weight is \(3,\), expected \(32,\)",
        ),
        (lambda w: w.pop(FIRST), r"lacks 1 weights of \w+: encoder.layers.0.layer_norm1.weight"),
        (lambda w: w.update({FIRST: torch.ones(3)}), r"has 1 weights of \w+ in another shape: enc"),
        (
            lambda w: w.update({"language_model.stray": torch.ones(1)}),
            r"has 1 weights that no \w+ has: language_model.stray",
        ),
    ],
)
def test_weights_that_do_not_fit_are_listed(damaged, change, says):
    with pytest.raises(CheckpointError, match=says) as error:
        build(damaged(change))
    assert "\n" not in str(error.value)


def test_shards_are_read_as_one_file_is(published, tmp_path, image):
    _, model, folder = published
    shutil.copytree(folder, tmp_path / "model", ignore=lambda *_: ["model.safetensors"])
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 3
    ours, again = published[0], build(tmp_path / "model")
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    decoding = Decoding(max_new_tokens=5)
    answers = [one.encode(image).ask(QUESTION, decoding=decoding) for one in (ours, again)]
    assert answers[0] == answers[1]


def test_a_t5_keeps_its_own_head(published):
    """Loaded the wrong way, transformers 5 writes the head over the table of words."""
    assistant, model, _ = published
    if model.config.text_config.model_type != "t5":
        pytest.skip("not a T5")
    ours, theirs = assistant.language.model, model.language_model
    assert not torch.equal(theirs.lm_head.weight, theirs.shared.weight)
    assert torch.equal(ours.shared.weight, theirs.shared.weight)
    assert torch.equal(ours.lm_head.weight, theirs.lm_head.weight)
    assert ours.encoder.embed_tokens.weight is ours.shared.weight


def test_a_t5_without_a_table_of_words_is_refused(published, damaged, tmp_path):
    """transformers would go on with one table in the place of the other."""
    if published[1].config.text_config.model_type != "t5":
        pytest.skip("not a T5")
    folder = damaged(lambda w: w.pop("language_model.shared.weight"))
    with pytest.raises(CheckpointError, match=r"lacks 1 weights of T5\w+: shared.weight"):
        build(folder)
    shutil.rmtree(folder)
    folder = damaged(lambda w: w.pop("language_model.lm_head.weight"))
    build(folder)  # the first T5s have one table for both
    config = json.loads((folder / "config.json").read_text())
    told = config["text_config"]
    told["tie_word_embeddings"] = False  # as in the files of every Flan-T5
    told.pop("scale_decoder_outputs")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"lacks 1 weights of T5\w+: lm_head.weight"):
        build(folder)


def test_the_frozen_parts_of_a_whole_model_open_alone(published, image):
    """So a LAVIS file, or one's own bridge, can name a published model for its frozen parts."""
    assistant, model, folder = published
    vision = VISION_ENCODERS["eva"](folder)
    pixel_values = vision.preprocess(image)[None]
    assert torch.equal(vision.encode(pixel_values), assistant.vision.encode(pixel_values))
    kind = "encoder-decoder" if model.config.text_config.model_type == "t5" else "decoder"
    language = LANGUAGE_MODELS[kind](folder)
    for name, value in model.language_model.state_dict().items():
        assert torch.equal(language.model.state_dict()[name], value), name


def test_too_little_memory_says_what_would_fit(published, monkeypatch):
    _, _, folder = published
    whole = Count.of(WeightFiles(folder).shapes()).bytes(torch.float32)
    monkeypatch.setattr("adapters.memory.available", lambda device: int(0.8 * whole))
    says = (
        r"needs \S+ MB in fp32 and \S+ MB of memory are free: these would fit: --dtype bf16 .*\(0\."
    )
    with pytest.raises(CheckpointError, match=says):
        build(folder)
    monkeypatch.setattr("adapters.memory.available", lambda device: 1000)
    with pytest.raises(CheckpointError, match="free: choose a smaller model"):
        build(folder)
