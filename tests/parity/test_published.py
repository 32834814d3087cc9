"""BLIP-2 and InstructBLIP as published: whole-picture answers equal transformers' `generate`."""

import json

import pytest
import tiny
import torch

from adapters.build import build
from qformer.contracts import CheckpointError, Decoding

transformers = pytest.importorskip("transformers")

QUERIES = 4
QUESTION = "what is this?"


def bert(folder):
    """A BERT-like word tokenizer in a folder of its own."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(tiny.TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]",
    ).save_pretrained(folder)  # fmt: skip


def make(kind, language, root):
    """A tiny random model of the real class, as save_pretrained writes it."""
    folder = root / f"{kind}-{language}"
    getattr(tiny, language)(folder)  # its tokenizer stays; its weights are replaced below
    text = json.loads((folder / "config.json").read_text())
    (folder / "model.safetensors").unlink()
    text["max_position_embeddings"] = 512
    if language == "opt":
        text["word_embed_proj_dim"] = text["hidden_size"]  # as in every OPT that BLIP-2 speaks to
    qformer = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 48, "encoder_hidden_size": tiny.WIDTH, "initializer_range": 0.3,
    }  # fmt: skip
    family = {"blip2": "Blip2", "instructblip": "InstructBlip"}[kind]
    if kind == "instructblip":
        bert(folder / "qformer_tokenizer")
        qformer["vocab_size"] = 120
    config = getattr(transformers, f"{family}Config")(
        vision_config={**tiny.shape(), "initializer_range": 0.3},
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=QUERIES,
        image_token_index=text["vocab_size"] - 1,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    torch.nn.init.normal_(model.query_tokens)
    for part in (model.qformer, model.vision_model, model.language_projection):
        tiny.lively(part)
    model.save_pretrained(folder)
    settings = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder, model


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


def test_regions_work_without_training(published, image):
    assistant, _, _ = published
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


def test_a_model_without_a_weight_is_refused(published, tmp_path):
    from safetensors.torch import load_file, save_file

    _, _, folder = published
    for file in folder.rglob("*"):
        if file.is_file():
            (tmp_path / file.relative_to(folder)).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / file.relative_to(folder)).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["qformer.layernorm.weight" if "qformer.layernorm.weight" in weights
                else "qformer.embeddings.layernorm.weight"]  # fmt: skip
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights of \w+, qformer\.\S*layernorm"):
        build(tmp_path)
