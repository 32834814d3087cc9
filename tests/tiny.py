"""Tiny random models of every kind Loupe reads, as the folders that save_pretrained writes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_segmenters import sam

TEXT = [
    "a small red circle at the left, a big dotted blue star next to the green house.",
    "picture: region 1: question: what is this? answer: a yellow cat",
    "how many pink fish are there? three. is there a tree? yes, behind the purple car.",
    "which is bigger, region 1 or region 2? and its colour? the striped orange flower.",
]
IMAGE_SIZE, PATCH, WIDTH = 32, 8, 24  # of every tiny vision encoder
GRID = IMAGE_SIZE // PATCH


def save(model: Any, folder: Path, preprocessor: bool = False) -> Path:
    """Save in half precision, as published folders often are."""
    model.half().save_pretrained(folder)
    if preprocessor:
        values = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "resample": 3}
        (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


def lively(model: Any) -> Any:
    """Every weight away from its flat start."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def shape(layers: int = 2) -> dict[str, int]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH,
    }


def vit(folder: Path) -> Path:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(**shape(), initializer_range=0.2)
    return save(ViTModel(config, add_pooling_layer=False), folder, preprocessor=True)


def deit(folder: Path) -> Path:
    from transformers import DeiTConfig, DeiTModel

    torch.manual_seed(0)
    return save(lively(DeiTModel(DeiTConfig(**shape()))), folder, preprocessor=True)


def dinov2(folder: Path) -> Path:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(0)
    sizes = {key: value for key, value in shape().items() if key != "intermediate_size"}
    config = Dinov2WithRegistersConfig(**sizes, num_register_tokens=3)
    return save(Dinov2WithRegistersModel(config), folder, preprocessor=True)


def siglip(folder: Path) -> Path:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    return save(SiglipVisionModel(SiglipVisionConfig(**shape())), folder, preprocessor=True)


def siglip2(folder: Path) -> Path:
    """The NaFlex kind, which is given patches; of fixed size SigLIP 2 is a SigLIP."""
    from transformers import Siglip2VisionConfig, Siglip2VisionModel

    torch.manual_seed(0)
    sizes = {key: value for key, value in shape().items() if key != "image_size"}
    config = Siglip2VisionConfig(**sizes, num_patches=GRID**2)
    return save(lively(Siglip2VisionModel(config)), folder, preprocessor=True)


def align(folder: Path) -> Path:
    """A small EfficientNet. Its picture is larger: a patch is 32 pixels wide."""
    from transformers import AlignVisionConfig, AlignVisionModel

    torch.manual_seed(0)
    config = AlignVisionConfig(
        image_size=3 * 32, width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=128
    )
    model = AlignVisionModel(config)
    for parameter in model.parameters():  # so deep a net needs its signal kept
        if parameter.dim() == 4:
            torch.nn.init.kaiming_normal_(parameter)
    return save(model, folder, preprocessor=True)


def clip(folder: Path) -> Path:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    return save(CLIPVisionModel(CLIPVisionConfig(**shape(3))), folder, preprocessor=True)


def clip_trimmed(folder: Path) -> Path:
    """CLIP without its last block and norm, as LAVIS stores it."""
    from safetensors.torch import load_file, save_file

    clip(folder)
    weights = load_file(folder / "model.safetensors")
    gone = ("encoder.layers.2.", "post_layernorm.")
    kept = {name: value for name, value in weights.items() if not name.startswith(gone)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def eva(folder: Path) -> Path:
    from transformers import Blip2VisionConfig, Blip2VisionModel

    torch.manual_seed(0)
    model = lively(Blip2VisionModel(Blip2VisionConfig(**shape())))
    return save(model, folder, preprocessor=True)


def dpt(folder: Path) -> Path:
    """The hybrid that the embedded default's vision encoder is: convolutions, then a ViT."""
    from adapters.fresh import fresh_vision

    torch.manual_seed(0)
    model = fresh_vision(IMAGE_SIZE, WIDTH, layers=2, heads=2)
    torch.nn.init.normal_(model.embeddings.position_embeddings)
    return save(model, folder, preprocessor=True)


def sentencepiece(file: Path, **options: Any) -> Path:
    """Train a sentencepiece model on TEXT; returns the .model file."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 5),
        model_writer=model,
        model_type="unigram",
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(model.getvalue())
    return file


def llama(folder: Path) -> Path:
    """A Llama with a tokenizer like the embedded default's: pad 0, unk 1, bos 2, eos 3."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from adapters.tokenizer import open_tokenizer, save_sentencepiece

    file = sentencepiece(
        folder / "tokenizer.model",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        user_defined_symbols=["[CLS]", "[DEC]"],
    )
    save_sentencepiece(file, folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(open_tokenizer(folder)),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.4,
        tie_word_embeddings=True,
    )
    return save(LlamaForCausalLM(config), folder)


def opt(folder: Path) -> Path:
    """An OPT with a byte-level BPE tokenizer, that opens a text with </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=320,
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        init_std=0.4,
        eos_token_id=5,  # as in BLIP-2, where a newline ends an answer
    )
    return save(OPTForCausalLM(config), folder)


def like_llama(folder: Path, kind: str, **settings: Any) -> Path:
    """Another decoder of transformers with the tiny Llama's tokenizer and sizes."""
    import transformers

    llama(folder)
    told = json.loads((folder / "config.json").read_text())
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
             "num_attention_heads", "max_position_embeddings", "initializer_range",
             "pad_token_id", "bos_token_id", "eos_token_id")  # fmt: skip
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config")(
        **{name: told[name] for name in names}, num_key_value_heads=1, **settings
    )
    return save(getattr(transformers, f"{kind}ForCausalLM")(config), folder)


def qwen(folder: Path) -> Path:
    return like_llama(folder, "Qwen3", head_dim=16)


def smollm(folder: Path) -> Path:
    return like_llama(folder, "SmolLM3")


def gemma(folder: Path) -> Path:
    """Its layers see a few tokens back, in turn with layers that see all; its words are scaled."""
    layers = ["sliding_attention", "full_attention"]
    return like_llama(folder, "Gemma3", head_dim=16, sliding_window=4, layer_types=layers)


def t5(folder: Path) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    sentencepiece(folder / "spiece.model", vocab_size=120, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0})
    )
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=128,
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        initializer_factor=2.0,
    )
    return save(T5ForConditionalGeneration(config), folder)


# Builder above -> the entry of its registry that opens the folder.
TRUNK = ((6, 3), (8, 3), (10, 5), (12, 3), (14, 5), (16, 5), (20, 3))  # width and kernel


def trunk_state() -> dict[str, torch.Tensor]:
    """A released state dict's names and kinds of shapes, one narrow block a stage."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def conv(name, norm, out, inner, kernel, groups=1):
        fan = inner // groups * kernel**2
        state[f"{name}.weight"] = (
            torch.randn(out, inner // groups, kernel, kernel) * (3 / fan) ** 0.5
        )
        state[f"{norm}.weight"], state[f"{norm}.bias"] = torch.rand(out) + 0.5, torch.randn(out) / 9
        state[f"{norm}.running_mean"] = torch.randn(out) * 0.1
        state[f"{norm}.running_var"] = torch.rand(out) + 0.5

    conv("_conv_stem", "_bn0", 8, 3, 3)
    width = 8
    for n, (out, kernel) in enumerate(TRUNK):
        block = f"_blocks.{n}"
        inner = width if n == 0 else 2 * width
        if n:
            conv(f"{block}._expand_conv", f"{block}._bn0", inner, width, 1)
        conv(f"{block}._depthwise_conv", f"{block}._bn1", inner, inner, kernel, inner)
        conv(f"{block}._project_conv", f"{block}._bn2", out, inner, 1)
        width = out
    conv("_conv_head", "_bn1", 24, width, 1)
    state["_fc.weight"], state["_fc.bias"] = torch.randn(1000, 24), torch.zeros(1000)
    return state


def hybrid(folder: Path, side: int = 96) -> Path:
    """A hybrid ViT, its trunk in a folder beside it."""
    from adapters.hybrid import HybridConfig, HybridVisionEncoder, HybridVit, open_trunk

    trunk = folder.parent / f"{folder.name}-trunk"
    trunk.mkdir(parents=True)
    save_file(trunk_state(), trunk / "model.safetensors")
    model = HybridVit(HybridConfig(str(trunk), side, 24, 1, 2, 32, 8), open_trunk(trunk))
    torch.nn.init.normal_(model.names)
    HybridVisionEncoder(model).save(folder)
    return folder


VISION = {
    "vit": "hf",
    "deit": "hf",
    "dinov2": "hf",
    "siglip": "hf",
    "siglip2": "hf",
    "align": "hf",
    "dpt": "hf",
    "clip": "clip",
    "clip_trimmed": "clip-trimmed",
    "eva": "eva",
    "hybrid": "hybrid",
}
LANGUAGE = {
    **dict.fromkeys(("llama", "opt", "qwen", "smollm", "gemma"), "decoder"),
    "t5": "encoder-decoder",
}
SEGMENTER = {
    "sam": "sam",
    "sam_hq": "sam_hq",
    "sam2": "sam2",
    "sam3": "sam3",
    "sam3_video": "sam3_video",
    "sam3_tracker": "sam3_tracker",
    "efficientsam": "efficientsam",
    "mobilesam": "mobilesam",
    "lite_sam": "lite_sam",
}


def loupe(root: Path, instruct: bool = True, lora: bool = False) -> Path:
    """A whole model below `root`: frozen folders and, beside them, the checkpoint root/loupe."""
    from adapters import lora as low_rank
    from adapters.checkpoint import save_checkpoint
    from adapters.config import CheckpointConfig, PartConfig, TokenizerConfig
    from adapters.registry import LANGUAGE_MODELS
    from qformer.bridge import Bridge, BridgeConfig
    from qformer.config import QFormerConfig
    from qformer.contracts import Decoding
    from qformer.prompt import PromptConfig
    from qformer.regions import RegionConfig

    vit(root / "vision")
    llama(root / "language")
    sam(root / "segmenter")
    language = LANGUAGE_MODELS["decoder"](root / "language")
    qformer = QFormerConfig(
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        intermediate_size=48,
        encoder_hidden_size=WIDTH,
        num_queries=4,
        vocab_size=len(language.tokenizer),
        max_positions=64,
        cls_id=4,
        dec_id=5,
        itc_size=16,
    )
    config = CheckpointConfig(
        vision=PartConfig("hf", "../vision"),
        language=PartConfig("decoder", "../language"),
        segmenter=PartConfig("sam", "../segmenter"),
        tokenizer=TokenizerConfig("../language"),
        bridge=BridgeConfig(
            qformer,
            RegionConfig(trainable=True),
            language_width=language.width,
            instruct=instruct,
        ),
        prompt=PromptConfig(
            picture="picture: {tokens}",
            region=" {name}: {tokens}",
            question=" question: {question} answer:",
        ),
        decoding=Decoding(max_new_tokens=8),
        lora=lora,
        domain="tiny random weights",
    )
    torch.manual_seed(0)
    bridge = Bridge(config.bridge)
    for parameter in bridge.qformer.parameters():  # away from BERT's flat start
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    if lora:
        for parameter in low_rank.attach(language, rank=4):
            torch.nn.init.normal_(parameter, std=0.1)
    save_checkpoint(root / "loupe", config, bridge, language)
    return root / "loupe"
