"""LAVIS' .pth files, of stage 1, retrieval, stage 2 and InstructBLIP, read whole and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from adapters import lavis_vision as names
from adapters.checkpoint import check_weights
from adapters.config import CheckpointConfig, PartConfig, TokenizerConfig
from adapters.convert.model import Model, Report, vision_of
from adapters.files import whole_file
from adapters.language import encodes, text_settings
from adapters.lavis import hold, projection_of, shape_of, stop_of, vision_kind
from adapters.lavis_vision import loose_vision
from adapters.published import PRESETS, bert_tokenizer, prompt_of
from adapters.source import ModelSource, Source
from qformer.contracts import CheckpointError
from qformer.convert import to_lavis


def read(
    file: Path,
    vision: Source | None = None,
    language: Source | None = None,
    tokenizer: Source | None = None,
    num_heads: int | None = None,
) -> Model:
    """vision: not needed where the file holds the vision encoder, as fine-tuned ones do; named all
    the same, it tells its settings. language: for a file of stage 2. tokenizer: BERT's, for a file
    with the Q-Former's text side. num_heads: see adapters.lavis.open_lavis."""
    held = hold(file)
    held.require(vision, language, tokenizer)
    ours, speaks = held.ours, "language_projection.weight" in held.ours
    reads = "qformer.word_embeddings.weight" in ours
    words = bert_tokenizer(tokenizer) if reads and tokenizer is not None else None
    shape = shape_of(ours, words, num_heads)
    heads = "itm_head.weight" in ours
    check_weights(shape, ours, f"{file} is incomplete", heads=heads)
    loose = None
    if held.visual:
        loose = loose_vision(file, held.visual, vision)
        kind = "eva" if loose.config["model_type"] == "blip_2_vision_model" else "clip-trimmed"
        seen = PartConfig(kind, "vision")
    else:
        assert vision is not None  # asked above
        seen = PartConfig(vision_kind(vision), ModelSource.of(vision).absolute)
    spoken, decodes = None, True
    if speaks and language is not None:
        decodes = not encodes(text_settings(language))
        kind = "decoder" if decodes else "encoder-decoder"
        spoken = PartConfig(kind, ModelSource.of(language).absolute, stop=stop_of(language))
    reader = TokenizerConfig(ModelSource.of(tokenizer).absolute) if words and tokenizer else None
    config = CheckpointConfig(
        vision=seen,
        language=spoken,
        bridge=shape,
        tokenizer=reader,
        prompt=prompt_of(shape.instruct, decodes),
        decoding=PRESETS["chat"],
        heads=heads,
    )
    return Model(config, ours, loose, held.homeless)


def write(model: Model, target: Path) -> Report:
    """The bridge, and the vision encoder where LAVIS has names for it; a language model never."""
    if model.lora is not None:
        raise CheckpointError(
            "LAVIS has no place for a LoRA: convert to hf, where it is merged into the model"
        )
    if target.suffix not in (".pth", ".pt"):
        raise CheckpointError(f"{target} is to be a LAVIS file: let its name end in .pth")
    config = model.config
    projection = "opt_proj"
    if config.language is not None:
        spoken = text_settings(config.language.source)
        projection = projection_of(spoken)
    weights, homeless = to_lavis(model.weights, projection)
    remarks = []
    loose = vision_of(model)
    backward: Any = {
        "blip_2_vision_model": names.eva_to_lavis,
        "instructblip_vision_model": names.eva_to_lavis,
        "clip_vision_model": names.clip_to_lavis,
    }.get(loose.config.get("model_type", ""))
    if backward is None:
        remarks.append(
            f"LAVIS has no {loose.config.get('model_type')} vision encoder: it is left out"
        )
    else:
        visual, odd = backward(
            {k: v for k, v in loose.weights.items() if not k.startswith("post_layernorm.")}
        )
        weights |= {f"{names.PREFIX}{name}": value for name, value in visual.items()}
        homeless = [*homeless, *(f"{names.PREFIX}{name}" for name in odd)]
    if config.language is not None:
        remarks.append("LAVIS reads the language model from its own folder: it is left out")
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as file:
        torch.save({"model": {k: v.contiguous() for k, v in weights.items()}}, file)
    left = (*model.homeless, *homeless)
    return Report("a LAVIS file", len(weights), (), left, tuple(remarks))
