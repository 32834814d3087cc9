"""Stage 2 with OPT against numbers of the reference implementation: loss, logits, greedy answer."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from adapters.build import build
from adapters.language_decoder import DecoderLanguageModel
from adapters.lavis import open_lavis
from adapters.vision import HuggingFaceVisionEncoder, Normalisation
from qformer.assistant import Assistant, AssistantConfig
from qformer.bridge import Bridge, BridgeConfig, PassRows
from qformer.config import QFormerConfig
from qformer.contracts import CheckpointError, Decoding
from qformer.convert import from_lavis
from qformer.prompt import PICTURE, PromptConfig, assemble, lay_out

transformers = pytest.importorskip("transformers")

FILE = Path(__file__).resolve().parents[1] / "golden" / "stage2_opt.safetensors"
SEEN = "visual_encoder."


class Numerals:
    """A tokenizer whose words are the ids themselves; </s> opens a text, as for OPT."""

    start_ids, eos_id = (2,), 3

    def __len__(self):
        return 70

    def __call__(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


def named(weights, prefix):
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def golden():
    return load_file(FILE)


@pytest.fixture(scope="module")
def vision(golden):
    """Blip2VisionModel with the EVA's weights: the same tensors under other names."""
    names = {
        "patch_embed.proj": "embeddings.patch_embedding",
        "cls_token": "embeddings.class_embedding",
        "pos_embed": "embeddings.position_embedding",
        "blocks.": "encoder.layers.",
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attn.qkv": "self_attn.qkv",
        "attn.proj": "self_attn.projection",
    }
    weights = named(golden, "lavis.visual_encoder.")
    for block in range(3):
        query, value = (weights.pop(f"blocks.{block}.attn.{part}_bias") for part in "qv")
        weights[f"blocks.{block}.attn.qkv.bias"] = torch.cat([query, 0 * query, value])
    for old, new in names.items():
        weights = {key.replace(old, new): tensor for key, tensor in weights.items()}
    config = transformers.Blip2VisionConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=56,
        patch_size=14,
    )
    model = transformers.Blip2VisionModel(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert unexpected == []
    assert all(name.startswith("post_layernorm.") for name in missing)  # that is the bridge's
    return HuggingFaceVisionEncoder(model, 1, Normalisation((0, 0, 0), (1, 1, 1)), hidden_state=-1)


@pytest.fixture(scope="module")
def language(golden):
    with safe_open(FILE, "pt") as file:
        told = json.loads(file.metadata()["config"])["opt"]
    config = transformers.OPTConfig(
        vocab_size=told["vocab"],
        hidden_size=told["hidden"],
        word_embed_proj_dim=told["hidden"],
        ffn_dim=told["ffn"],
        num_hidden_layers=told["layers"],
        num_attention_heads=told["heads"],
        max_position_embeddings=64,
        pad_token_id=told["pad"],
        bos_token_id=told["bos"],
        eos_token_id=told["eos"],
    )
    model = transformers.OPTForCausalLM(config)
    model.load_state_dict(named(golden, "lavis.opt_model."))
    return DecoderLanguageModel(model, Numerals())


@pytest.fixture(scope="module")
def bridge(golden):
    qformer = QFormerConfig(
        hidden_size=64,
        num_layers=4,
        num_heads=4,
        intermediate_size=128,
        encoder_hidden_size=48,
        num_queries=8,
        vocab_size=0,
        text_feed_forward=False,
    )
    bridge = Bridge(BridgeConfig(qformer, language_width=32)).eval()
    weights, homeless = from_lavis(named(golden, "lavis."))
    assert all(name.startswith(("visual_encoder.", "opt_model.")) for name in homeless)
    bridge.load_state_dict(weights)
    return bridge


@pytest.fixture(scope="module")
def soft_tokens(golden, vision, bridge):
    memory = bridge.remember(vision.encode(golden["in.pixel_values"]))
    return bridge.project(bridge.query(memory, PassRows.whole(2, 16)))


def prompt(language, ids, soft_tokens):
    """BLIP-2's own: the picture's tokens, </s>, the text."""
    config = PromptConfig(start_ids="after picture", question="{question}")
    text = " ".join(str(int(i)) for i in ids)
    return assemble(language, lay_out(config, text, [PICTURE]), {PICTURE: soft_tokens})


def test_the_loss_reads_what_follows_the_prompt(golden, language, soft_tokens):
    ids, labels = golden["in.input_ids"], golden["in.labels_text"]
    prompts = [prompt(language, ids[i, 1:3], soft_tokens[i]) for i in range(2)]
    answers = [labels[i][labels[i] != -100] for i in range(2)]
    loss = language.loss(prompts, answers)
    torch.testing.assert_close(loss, golden["out.loss"][0], atol=1e-5, rtol=1e-5)
    loss.backward()
    assert language.model.get_input_embeddings().weight.grad is None


def test_the_logits_agree(golden, language, soft_tokens):
    inputs_embeds = prompt(language, golden["in.input_ids"][0, 1:], soft_tokens[0])
    logits = language.model(inputs_embeds=inputs_embeds[None]).logits[0]
    torch.testing.assert_close(logits, golden["out.hf_logits"][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("picture", [0, 1])
def test_the_assistant_answers_the_same_words(golden, vision, bridge, language, picture):
    class Given(torch.nn.Module):
        """The encoder, its picture already prepared."""

        image_size, grid, leading_tokens, width = (56, 56), (4, 4), 1, 48

        def preprocess(self, image):
            return golden["in.pixel_values"][picture]

        def encode(self, pixel_values):
            return vision.encode(pixel_values)

    config = AssistantConfig(
        PromptConfig(start_ids="after picture", question="{question}"), Decoding(max_new_tokens=10)
    )
    assistant = Assistant(Given(), bridge, language, config=config)
    view = assistant.encode(torch.zeros(56, 56, 3, dtype=torch.uint8))
    words = [str(int(i)) for i in golden["in.prompt_ids"][picture, 1:]]
    expected = " ".join(str(int(i)) for i in golden["out.generated_ids_greedy"][picture])
    assert view.ask(" ".join(words)) == expected


@pytest.fixture(scope="module")
def files(golden, vision, language, tmp_path_factory):
    """What a user of LAVIS has: the .pth, and the frozen parts in folders."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    root = tmp_path_factory.mktemp("lavis")
    torch.save({"model": named(golden, "lavis.")}, root / "stage2.pth")
    copy.deepcopy(vision.model).save_pretrained(root / "vision")
    settings = {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    (root / "vision" / "preprocessor_config.json").write_text(json.dumps(settings))
    language.model.save_pretrained(root / "language")
    names = {2: "<s>", 3: "</s>"}  # found inside other words, so none of the numerals
    vocabulary = {names.get(i, str(i)): i for i in range(70)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="1"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(root / "language")
    return root


def test_a_lavis_file_opens_beside_its_frozen_parts(files, golden, bridge):
    parts = open_lavis(files / "stage2.pth", files / "vision", files / "language", num_heads=4)
    assert parts.bridge.config == bridge.config
    for name, value in bridge.state_dict().items():
        assert torch.equal(parts.bridge.state_dict()[name], value), name
    prompt = dataclasses.replace(parts.prompt, question="{question}")
    config = AssistantConfig(prompt, Decoding(max_new_tokens=10))
    assistant = Assistant(parts.vision, parts.bridge, parts.language, config=config)
    parts.vision.preprocess = lambda image: golden["in.pixel_values"][0]
    view = assistant.encode(torch.zeros(56, 56, 3, dtype=torch.uint8))
    words = " ".join(str(int(i)) for i in golden["in.prompt_ids"][0, 1:])
    ids = golden["out.generated_ids_greedy"][0].tolist()
    assert view.ask(words) == " ".join(str(i) for i in ids if i > 3)


def test_a_file_without_its_vision_encoder_wants_it_named(files, golden, tmp_path):
    weights = torch.load(files / "stage2.pth")["model"]
    rest = {name: value for name, value in weights.items() if not name.startswith(SEEN)}
    torch.save({"model": rest}, tmp_path / "bridge.pth")
    with pytest.raises(
        CheckpointError, match=r"nor its language model: .* \(--vision, --language\)"
    ):
        build(tmp_path / "bridge.pth")
    pixel_values = golden["in.pixel_values"]
    named, held = (
        open_lavis(file, files / "vision", files / "language", num_heads=4).vision
        for file in (tmp_path / "bridge.pth", files / "stage2.pth")
    )
    assert torch.equal(named.encode(pixel_values), held.encode(pixel_values))


def test_the_vision_encoder_in_a_file_is_the_one_that_reads(files, golden, tmp_path):
    """Those tuned on COCO hold one of their own: the named one only tells its settings."""
    weights = torch.load(files / "stage2.pth")["model"]
    weights[f"{SEEN}blocks.1.mlp.fc1.weight"] *= 2
    torch.save({"model": weights}, tmp_path / "tuned.pth")
    before, after = (
        open_lavis(file, files / "vision", files / "language", num_heads=4).vision
        for file in (files / "stage2.pth", tmp_path / "tuned.pth")
    )
    pixel_values = golden["in.pixel_values"]
    assert (before.encode(pixel_values) - after.encode(pixel_values)).abs().max() > 1e-3


def test_a_lavis_file_is_refused_where_it_does_not_fit(files, tmp_path):
    parts = {"vision": files / "vision", "language": files / "language"}
    with pytest.raises(CheckpointError, match=r"not hold its language model: .* \(--language\)"):
        build(files / "stage2.pth")  # it holds its vision encoder
    with pytest.raises(CheckpointError, match="there is no file"):
        build(files / "nowhere.pth", **parts)
    with pytest.raises(CheckpointError, match="leave out vision"):
        build("embedded", **parts)
    weights = torch.load(files / "stage2.pth")["model"]

    def refused(match, change):
        broken = dict(weights)
        change(broken)
        torch.save({"model": broken}, tmp_path / "broken.pth")
        with pytest.raises(CheckpointError, match=match):
            build(tmp_path / "broken.pth", **parts)

    refused(
        "vision encoder lacks embeddings.patch", lambda w: w.pop(f"{SEEN}patch_embed.proj.weight")
    )
    refused(
        r"its vision encoder lacks 1 weights, .*: encoder\.layers\.2\.mlp\.fc2\.bias",
        lambda w: w.pop(f"{SEEN}blocks.2.mlp.fc2.bias"),
    )
    refused("1 weights Loupe does not know", lambda w: w.update(stray=torch.ones(1)))
    refused("give one of stage 2", lambda w: (w.pop("opt_proj.weight"), w.pop("opt_proj.bias")))
    refused(
        r"is incomplete: 1 weights missing \(qformer\.layers\.1\.attention\.key\.bias\)",
        lambda w: w.pop("Qformer.bert.encoder.layer.1.attention.self.key.bias"),
    )
    whole = (files / "stage2.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("hello")
    for file in ("cut.pth", "text.pth"):
        with pytest.raises(CheckpointError, match="damaged or"):
            build(tmp_path / file, **parts)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(files, tmp_path):
    class Touch:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"model": Touch()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="could run code: it is refused"):
        build(tmp_path / "evil.pth", vision=files / "vision", language=files / "language")
    assert not (tmp_path / "ran").exists()
