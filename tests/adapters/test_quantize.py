"""Language models in 8 and 4 bits, and spread over devices."""

import importlib.util
from pathlib import Path

import pytest
import tiny
import torch
from whole import QUESTION, make

from adapters.build import build
from adapters.folder import open_model
from adapters.language_decoder import DecoderLanguageModel
from adapters.memory import Count, Placement
from adapters.tokenizer import open_tokenizer
from qformer.contracts import CheckpointError, Decoding

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
ANSWER = torch.tensor([9, 8, 7, 6])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama whose layers are as wide as 4 bits want them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tiny.llama(tmp_path_factory.mktemp("llama"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(open_tokenizer(folder)), hidden_size=64, intermediate_size=128,
        num_hidden_layers=2, num_attention_heads=2, initializer_range=0.2,
        pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    tiny.save(LlamaForCausalLM(config), folder)
    return folder


def opened(folder, quantize=None, device_map=None):
    return DecoderLanguageModel.open(folder, placement=Placement("cpu", quantize, device_map))


def prompt():
    return torch.randn(5, 64, generator=torch.Generator().manual_seed(1))


def logits(language):
    return language.answer_logits([prompt()], [ANSWER])[0].float()


@needs_bitsandbytes
@pytest.mark.parametrize(("kind", "likeness"), [("int8", 0.99), ("nf4", 0.8)])
def test_a_quantised_model_says_nearly_the_same_in_less_room(folder, kind, likeness):
    whole, small = opened(folder), opened(folder, kind)
    pair = torch.stack([logits(whole).flatten(), logits(small).flatten()])
    assert likeness < torch.corrcoef(pair)[0, 1] < 0.99999
    kinds = {type(module).__name__ for module in small.modules()}
    assert {"int8": "Linear8bitLt", "nf4": "Linear4bit"}[kind] in kinds
    assert type(small.model.lm_head).__name__ == "Linear"  # the head stays whole
    ids = list(small.generate(prompt(), Decoding(max_new_tokens=5)))
    assert ids == list(small.generate(prompt(), Decoding(max_new_tokens=5)))


@needs_bitsandbytes
def test_four_bits_are_the_same_after_a_forward_pass(folder):
    """On processors with AVX512-BF16 bitsandbytes would repack them: what is saved is corrupt."""
    language = opened(folder, "nf4")
    before = {name: value.clone() for name, value in language.state_dict().items()}
    logits(language)
    list(language.generate(prompt(), Decoding(max_new_tokens=3)))
    after = language.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    four = [m for m in language.modules() if type(m).__name__ == "Linear4bit"]
    assert len(four) == 14
    assert not any(module.support_avx512bf16_for_cpu for module in four)


@needs_bitsandbytes
def test_without_the_guard_they_would_not_be(folder):
    from bitsandbytes.nn.modules import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this processor has no AVX512-BF16")
    language = opened(folder, "nf4")
    before = {name: value.clone() for name, value in language.state_dict().items()}
    for module in language.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = True
    logits(language)
    after = language.state_dict()
    assert not all(torch.equal(value, after[name]) for name, value in before.items())


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_only_the_language_model_of_a_published_model_is_quantised(
    tmp_path, monkeypatch, kind, image
):
    monkeypatch.setattr("adapters.quantize.ROWS", 16)  # a tiny model's
    folder, _ = make("blip2", "opt", tmp_path)
    assistant = build(folder, quantize=kind)
    for part in (assistant.vision, assistant.bridge):
        assert not any("bit" in type(module).__name__ for module in part.modules())
    assert any("bit" in type(module).__name__ for module in assistant.language.modules())
    view = assistant.encode(image)
    mask = torch.zeros(image.shape[:2], dtype=torch.bool)
    mask[5:20, 5:20] = True
    assert isinstance(view.ask(QUESTION, [view.region(mask)], Decoding(max_new_tokens=3)), str)


@needs_bitsandbytes
def test_rows_that_four_bits_cannot_hold_are_refused(tmp_path):
    folder, _ = make("blip2", "opt", tmp_path)
    with pytest.raises(CheckpointError, match="48 outputs, and 4 bits want a multiple of 32"):
        build(folder, quantize="nf4")


@needs_bitsandbytes
def test_a_lora_stays_beside_the_bits(tmp_path, image):
    assistant = build(tiny.loupe(tmp_path, lora=True), quantize="int8")
    kinds = {type(module).__name__ for module in assistant.language.modules()}
    assert any("bit" in kind for kind in kinds)
    assert any("lora_" in name for name, _ in assistant.language.named_parameters())
    assert not any(one.requires_grad for one in assistant.language.parameters())
    assert isinstance(assistant.encode(image).ask(QUESTION), str)


def test_without_bitsandbytes_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr("adapters.quantize.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"--quantize nf4 needs bitsandbytes: pip install"):
        opened(folder, "nf4")
    with pytest.raises(CheckpointError, match=r"--device-map needs accelerate: pip install"):
        opened(folder, device_map="auto")


def test_a_model_spread_over_devices_says_the_same(folder, tmp_path):
    """No second device here: the disk stands for one."""
    pytest.importorskip("accelerate")
    from transformers import LlamaForCausalLM

    whole = opened(folder)
    torch.testing.assert_close(logits(opened(folder, device_map="auto")), logits(whole))
    model = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, offload_folder=tmp_path,
        device_map={"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu",
                    "model.layers.0": "cpu", "model.layers.1": "disk", "lm_head": "cpu"},
    )  # fmt: skip
    spread = DecoderLanguageModel(model, open_tokenizer(folder))
    assert any(parameter.device.type == "meta" for parameter in spread.parameters())
    torch.testing.assert_close(logits(spread), logits(whole))
    decoding = Decoding(max_new_tokens=6)
    assert list(spread.generate(prompt(), decoding)) == list(whole.generate(prompt(), decoding))


def test_bytes_are_counted_by_what_is_quantised(folder):
    shapes = {
        "vision_model.encoder.layers.0.mlp.fc1.weight": (4, 8),
        "language_model.model.layers.0.fc1.weight": (64, 32),
        "language_model.model.embed_tokens.weight": (10, 32),
        "language_model.lm_head.weight": (10, 32),
        "qformer.layer.weight": (3, 3),
    }
    small = 2 * (32 + 320 + 320) + 4 * 9
    count = Count.of(shapes)
    assert count.parameters == 32 + 2048 + 320 + 320 + 9
    assert count.bytes(torch.bfloat16) == small + 2 * 2048
    assert count.bytes(torch.bfloat16, "int8") == small + 2048 + 4 * 64
    assert count.bytes(torch.bfloat16, "nf4") == small + 1024 + 128


def test_weights_of_the_stored_dtype_stay_in_their_file(folder):
    """Nothing is copied: what a model maps is the system's own cache of its files."""
    model, maps = open_model(folder, torch.float16), Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    told = maps.read_text()
    place = model.model.layers[0].mlp.up_proj.weight.data_ptr()
    line = next(
        line for line in told.splitlines()
        if int(line.split("-")[0], 16) <= place < int(line.split("-")[1].split()[0], 16)
    )  # fmt: skip
    assert line.endswith("model.safetensors")
