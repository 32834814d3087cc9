"""Parts that do not belong together are refused, however well their widths fit."""

import shutil

import pytest
import tiny
import torch
import transformers
import whole

from adapters.build import build
from adapters.convert import convert
from adapters.registry import LANGUAGE_MODELS
from demo import cli
from qformer.contracts import CheckpointError, Decoding

KINDS = {
    "opt": ("blip2", "opt_proj"),
    "t5": ("blip2", "t5_proj"),
    "llama": ("instructblip", "llm_proj"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A whole model of each kind of language model, all of one width, and its LAVIS file."""
    root = tmp_path_factory.mktemp("models")
    made = {}
    for language, (kind, _) in KINDS.items():
        folder, _ = whole.make(kind, language, root)
        convert(folder, root / f"{language}.pth", "lavis")
        made[language] = folder, root / f"{language}.pth"
    return made


def test_a_file_is_written_under_the_name_of_its_language_model(models):
    for language, (_, projection) in KINDS.items():
        names = torch.load(models[language][1], weights_only=True)["model"]
        assert {name.split(".")[0] for name in names if "_proj." in name} & {
            "opt_proj", "t5_proj", "llm_proj"} == {projection}  # fmt: skip


@pytest.mark.parametrize("theirs", KINDS)
@pytest.mark.parametrize("ours", KINDS)
def test_a_lavis_file_opens_with_the_kind_of_language_model_it_names(models, ours, theirs):
    folder, file = models[ours]
    options = {"vision": str(folder), "language": str(models[theirs][0])}
    if ours == "llama":
        options["tokenizer"] = str(folder / "qformer_tokenizer")
    if ours == theirs:
        assistant = build(str(file), None, **options)
        image = torch.zeros(40, 40, 3, dtype=torch.uint8)
        asked = assistant.encode(image).ask(whole.QUESTION)
        # An OPT of a file stops at the end of a line, and not at its own end.
        assert asked.startswith(build(str(folder), None).encode(image).ask(whole.QUESTION))
        return
    with pytest.raises(CheckpointError, match=f"has {KINDS[ours][1]}, which speaks to"):
        build(str(file), None, **options)
    with pytest.raises(CheckpointError, match=f"has {KINDS[ours][1]}, which speaks to"):
        convert(str(file), folder.parent / "no", "loupe", **options)
    assert not (folder.parent / "no").exists()


def test_the_command_says_it_in_a_line(models, tmp_path, capsys):
    from PIL import Image

    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    folder, file = models["opt"]
    words = ["ask", str(tmp_path / "a.png"), "what?", "--model", str(file), "--vision", str(folder),
             "--language", str(models["t5"][0])]  # fmt: skip
    assert cli.main(words) == 2
    assert "opt_proj, which speaks to an OPT, and" in capsys.readouterr().err


SMALL = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 0,
}  # fmt: skip
T5 = {"vocab_size": 300, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
SEES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip


def save(name, model, words, root):
    folder = root / name
    model.save_pretrained(folder)
    for file in words.iterdir():
        if file.name.startswith(("tokenizer", "special")):
            shutil.copy(file, folder)
    return folder


def t5gemma():
    half = {**SMALL, "head_dim": 8, "layer_types": ["full_attention"] * 2}
    config = transformers.T5GemmaConfig(encoder=half, decoder=half, vocab_size=300)
    return transformers.T5GemmaForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)), "decoder",
         "whose kind is 'encoder-decoder'"),
        (t5gemma, "decoder", "whose kind is 'encoder-decoder'"),
        (t5gemma, "encoder-decoder", "does not say what opens an answer"),
        (lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)),
         "encoder-decoder", "whose kind is 'decoder'"),
        (lambda: transformers.Mamba2ForCausalLM(transformers.Mamba2Config(
            vocab_size=300, hidden_size=32, state_size=16, num_heads=8, head_dim=8, n_groups=1,
            num_hidden_layers=1)), "decoder", "does not write from keys and values"),
        (lambda: transformers.RwkvForCausalLM(transformers.RwkvConfig(
            vocab_size=300, hidden_size=32, num_hidden_layers=2)), "decoder",
         "does not write from keys and values"),
        (lambda: transformers.LlamaModel(transformers.LlamaConfig(**SMALL)), "decoder",
         "as LlamaModel, which does not write"),
        (lambda: transformers.T5EncoderModel(transformers.T5Config(**T5)), "encoder-decoder",
         "as T5EncoderModel, which does not write"),
    ],
)  # fmt: skip
def test_language_models_of_another_kind_are_refused_in_a_line(tmp_path, make, kind, message):
    folder = save("model", make(), tiny.llama(tmp_path / "llama"), tmp_path)
    with pytest.raises(CheckpointError, match=message):
        LANGUAGE_MODELS[kind](folder)


def gemma3():
    inner = {**SMALL, "head_dim": 8, "sliding_window": 64,
             "layer_types": ["sliding_attention", "full_attention"]}  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(
        transformers.Gemma3Config(text_config=inner, vision_config=SEES, mm_tokens_per_image=4)
    )


def llava():
    return transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            text_config=transformers.LlamaConfig(**SMALL),
            vision_config=transformers.CLIPVisionConfig(**SEES),
        )
    )


@pytest.mark.parametrize("make", [gemma3, llava])
def test_a_model_that_sees_for_itself_lends_its_language_half(tmp_path, make):
    torch.manual_seed(0)
    model = make()
    folder = save("model", model, tiny.llama(tmp_path / "llama"), tmp_path)
    language = LANGUAGE_MODELS["decoder"](folder)
    assert language.context == 256
    decoding = Decoding(max_new_tokens=4, min_new_tokens=4)
    prompt, more = (language.embed(torch.tensor(ids)) for ids in ([5, 6, 7], [9, 8]))
    prefix = language.new_prefix()
    told = list(language.generate(prompt, decoding, prefix))
    expected = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, min_new_tokens=4,
                              do_sample=False)  # fmt: skip
    assert told == expected[0, 3:].tolist()
    again = list(language.generate(more, decoding, prefix))
    whole_text = torch.cat([prompt, language.embed(torch.tensor(told)), more])
    assert again == list(language.generate(whole_text, decoding))
