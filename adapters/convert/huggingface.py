"""Hugging Face's folders of BLIP-2, InstructBLIP and BLIP-2 for retrieval, read and written.

What their classes have no place for (ITC's temperature, ITG's head, the region upgrade, the
wording of questions) lies beside the weights in two files of ours, which transformers ignores.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.checkpoint import LORA, check_weights
from adapters.config import CheckpointConfig, PartConfig, TokenizerConfig
from adapters.convert.model import Loose, Model, Report, language_of, vision_of
from adapters.files import whole_folder
from adapters.folder import listed, quiet
from adapters.published import (
    PRESETS,
    PUBLISHED,
    RETRIEVAL,
    TRAINING,
    bert_tokenizer,
    bridge_config,
    bridge_weights,
    prompt_of,
    retrieval_config,
    whole_config,
)
from adapters.source import ModelSource
from adapters.vision import Normalisation
from adapters.weights import WeightFiles, save_weights
from qformer.config import from_dict
from qformer.contracts import CheckpointError
from qformer.convert import from_huggingface, to_huggingface

BESIDE, TOLD = "loupe.safetensors", "loupe.json"
IMAGE = "<image>"
QFORMER_TOKENIZER = "qformer_tokenizer"
BARE, BARE_CLASS = "blip_2_qformer", "Blip2QFormerModel"
WHOLE_TABLE = re.compile(r"(embed_tokens|shared|lm_head)\.weight$")
EVA = ("blip_2_vision_model", "instructblip_vision_model")


def read(source: ModelSource) -> Model:
    """A folder or hub id, with the two files of ours where they are."""
    config = whole_config(source)
    beside = source.is_folder and source.file(TOLD) is not None
    stored = WeightFiles(source)
    if config.model_type == BARE:
        if not beside:
            raise CheckpointError(
                f"{source} is a Q-Former alone: its queries and its parts are not told ({TOLD} is "
                "missing)"
            )
        told, (ours, homeless) = None, from_huggingface(stored.read(stored))
    else:
        told = _told_by(config, source)
        ours, homeless = bridge_weights(stored)
    lora = None
    if beside:
        from safetensors.torch import load_file

        values = source.settings(TOLD)
        if told is not None:  # where the parts are now, not where they were
            now = _plain(told)
            values |= {name: now[name] for name in ("vision", "language", "tokenizer")}
            values["lora"] = False
        told = from_dict(CheckpointConfig, values)
        ours |= load_file(source.folder / BESIDE)
        lora = source.folder / LORA if told.lora else None
    assert told is not None
    check_weights(
        told.bridge, ours, f"{source} is not a model that Loupe knows", homeless,
        heads=told.heads, absent=TRAINING,
    )  # fmt: skip
    return Model(told, ours, lora=lora)


def _told_by(config: Any, source: ModelSource) -> CheckpointConfig:
    """What a whole model's own config says."""
    instruct, language, words = config.model_type == "instructblip", None, None
    retrieval = config.architectures == [RETRIEVAL]
    if retrieval:
        shape = retrieval_config(config, bert_tokenizer(source))
        words = TokenizerConfig(source.absolute)
    else:
        tokenizer = bert_tokenizer(source, QFORMER_TOKENIZER) if instruct else None
        shape = bridge_config(config, tokenizer)
        if instruct:
            words = TokenizerConfig(source.absolute, subfolder=QFORMER_TOKENIZER)
        decodes = config.use_decoder_only_language_model
        language = PartConfig("decoder" if decodes else "encoder-decoder", source.absolute)
    return CheckpointConfig(
        vision=PartConfig("eva", source.absolute),
        language=language,
        bridge=shape,
        tokenizer=words,
        prompt=prompt_of(instruct, language is None or language.kind == "decoder"),
        decoding=PRESETS["chat"],
        heads=retrieval,
    )


def _plain(config: CheckpointConfig) -> dict[str, Any]:
    """Turn a config into what config.json holds."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def write(model: Model, target: Path) -> Report:
    """The folder of the class that fits the model: one of the whole models, or, for a vision
    encoder that is no EVA, its Q-Former alone."""
    import transformers
    from safetensors.torch import save_file

    loose = vision_of(model)
    form = _form(model, loose)
    frozen, text_config = {}, None
    if form != BARE_CLASS:
        names = (k for k in loose.weights if not k.startswith("post_layernorm."))
        frozen = {f"vision_model.{name}": loose.weights[name] for name in names}
    image_id = None
    with whole_folder(target) as folder:
        if form != BARE_CLASS and model.config.language is not None:
            spoken, text_config = language_of(model)
            image_id = _save_tokenizer(model, folder, spoken, text_config)
            frozen |= {f"language_model.{name}": value for name, value in spoken.items()}
        config = _config(form, model, loose, text_config, image_id)
        with torch.device("meta"):
            wanted = getattr(transformers, form)(config).state_dict()
        weights, beside = _housed(model, form, wanted)
        missing = [
            name for name in wanted.keys() - {**weights, **frozen}.keys()
            if not name.startswith("language_model.")  # tied there, and stored once
        ]  # fmt: skip
        if missing:
            raise CheckpointError(f"{form} wants weights the model lacks: {listed(missing)}")
        save_weights(frozen | weights, folder)
        first = next(iter((frozen or weights).values()))
        config.dtype = first.dtype
        config.architectures = [form]
        config.save_pretrained(folder)
        save_file({k: v.contiguous() for k, v in beside.items()}, folder / BESIDE)
        (folder / TOLD).write_text(json.dumps(_plain(model.config), indent=2) + "\n")
        remarks = _save_rest(model, form, loose, folder)
    return Report(
        form, len(frozen) + len(weights), tuple(sorted(beside)), model.homeless, tuple(remarks)
    )


def _form(model: Model, loose: Loose) -> str:
    if loose.config.get("model_type") not in EVA or model.config.bridge.familiarity:
        return BARE_CLASS
    if model.config.language is None:
        return RETRIEVAL
    return PUBLISHED["instructblip" if model.config.bridge.instruct else "blip-2"]


def _housed(
    model: Model, form: str, wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The bridge's weights by the class's names, and, by ours, those it has no place for."""
    weights, beside = {}, {}
    instruct = form == PUBLISHED["instructblip"]
    for name, value in model.weights.items():
        spelled, _ = to_huggingface({name: value}, instruct)
        theirs = next(iter(spelled), "").removeprefix("qformer." if form == BARE_CLASS else "")
        if theirs in wanted and wanted[theirs].shape == value.shape:
            weights[theirs] = value
        else:
            beside[name] = value
    return weights, beside


def _config(form: str, model: Model, loose: Loose, text_config: Any, image_id: int | None) -> Any:
    """transformers' config of the class."""
    import transformers

    bridge, told = model.config.bridge, model.config.bridge.qformer
    qformer = {
        "vocab_size": told.vocab_size or 30522,
        "hidden_size": told.hidden_size,
        "num_hidden_layers": told.num_layers,
        "num_attention_heads": told.num_heads,
        "intermediate_size": told.intermediate_size,
        "max_position_embeddings": told.max_positions,
        "hidden_dropout_prob": told.dropout,
        "attention_probs_dropout_prob": told.dropout,
        "layer_norm_eps": told.layer_norm_eps,
        "pad_token_id": told.pad_id,
        "cross_attention_frequency": told.cross_attention_frequency,
        "encoder_hidden_size": told.encoder_hidden_size,
    }
    texts = form in (RETRIEVAL, BARE_CLASS) and told.text_feed_forward
    if form == BARE_CLASS:
        return transformers.Blip2QFormerConfig(**qformer, use_qformer_text_input=texts)
    family = "InstructBlip" if bridge.instruct else "Blip2"
    if not bridge.instruct:
        qformer["use_qformer_text_input"] = texts
    options: dict[str, Any] = {}
    if text_config is not None:
        options["text_config"] = text_config.to_dict()
        options["image_token_index"] = image_id
    else:
        options |= {"image_text_hidden_size": told.itc_size, "image_token_index": None}
    seen = {k: v for k, v in loose.config.items() if k not in ("model_type", "architectures")}
    return getattr(transformers, f"{family}Config")(
        vision_config=seen, qformer_config=qformer, num_query_tokens=told.num_queries, **options
    )


def _save_tokenizer(model: Model, folder: Path, spoken: dict[str, Tensor], text_config: Any) -> int:
    """The language model's tokenizer, with the token that stands for the picture's; its id.

    Where the language model's table has no row left for it, it gets one, a copy of the unknown
    token's, which is never written in its place: the first of two equals is.
    """
    from transformers import AutoTokenizer

    part = model.config.language
    assert part is not None
    with quiet():
        words = AutoTokenizer.from_pretrained(**part.source.pinned)
    if IMAGE not in words.get_vocab():
        words.add_tokens([IMAGE], special_tokens=True)
    token = words.convert_tokens_to_ids(IMAGE)
    rows = text_config.vocab_size
    if not isinstance(token, int) or token > rows:
        raise CheckpointError(
            f"the tokenizer of {part.path} has no {IMAGE} token and {token} others, more than the "
            f"language model's {rows}: give the tokenizer it was trained with"
        )
    if token == rows:
        spare = words.unk_token_id or 0
        for name, value in spoken.items():
            if WHOLE_TABLE.search(name) and len(value) == rows:
                spoken[name] = torch.cat([value, value[spare : spare + 1]])
        text_config.vocab_size = rows + 1
    words.save_pretrained(folder)
    return token


def _save_rest(model: Model, form: str, loose: Loose, folder: Path) -> list[str]:
    """Preprocessor, processor, generation settings, the Q-Former's tokenizer; remarks."""
    remarks = []
    if form == BARE_CLASS:
        if model.lora is not None:
            shutil.copytree(model.lora, folder / LORA)
        remarks.append(
            f"no class of transformers has a {loose.config.get('model_type')!r} as its vision "
            "encoder beside a Q-Former: this is the Q-Former alone"
        )
        return remarks
    side = model.config.vision.image_size or loose.config["image_size"]
    if side != loose.config["image_size"]:
        remarks.append(f"pictures are {side} pixels wide: pass interpolate_pos_encoding=True")
    normal = Normalisation.of(loose.preprocessor, model.config.vision.path)
    pictures = {
        "image_processor_type": "BlipImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": {"bilinear": 2, "bicubic": 3}[normal.resample],
        "image_mean": list(normal.mean),
        "image_std": list(normal.std),
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
    }
    _save(folder / "preprocessor_config.json", pictures)
    kind = "InstructBlipProcessor" if model.config.bridge.instruct else "Blip2Processor"
    queries = model.config.bridge.qformer.num_queries
    _save(folder / "processor_config.json", {"processor_class": kind, "num_query_tokens": queries})
    words = model.config.tokenizer
    if words is not None and (form == RETRIEVAL or model.config.bridge.instruct):
        opened = bert_tokenizer(words.source, words.subfolder)
        place = folder if form == RETRIEVAL else folder / QFORMER_TOKENIZER
        opened.tokenizer.save_pretrained(place)
    return remarks


def _save(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n")
