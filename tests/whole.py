"""Tiny random BLIP-2 and InstructBLIP of the real classes, as save_pretrained writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers

QUERIES = 4
QUESTION = "what is this?"


def bert(folder: Path) -> None:
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


def make(kind: str, language: str, root: Path) -> tuple[Path, Any]:
    """A tiny random model of the real class, as save_pretrained writes it."""
    folder = root / f"{kind}-{language}"
    getattr(tiny, language)(folder)  # its tokenizer stays; its weights are replaced below
    text = json.loads((folder / "config.json").read_text())
    (folder / "model.safetensors").unlink()
    text["max_position_embeddings"] = 512
    text["dtype"] = "float32"  # the tiny ones are saved in half: rounding would choose the beam
    if language == "t5":
        text["tie_word_embeddings"] = False  # as in every Flan-T5, whose head is its own
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
    if language == "t5":
        head = torch.randn_like(model.language_model.lm_head.weight)
        model.language_model.lm_head.weight = torch.nn.Parameter(head)
    for part in (model.qformer, model.vision_model, model.language_projection):
        tiny.lively(part)
    model.save_pretrained(folder)
    settings = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder, model
