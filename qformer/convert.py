"""Weight names: LAVIS <-> ours <-> Hugging Face, for everything the bridge owns.

Ours are those of `Stage1` and `Bridge` (`qformer.*`, the heads, `image_layernorm`,
`language_projection`). LAVIS' are those of its BLIP-2 checkpoints; Hugging Face's those of
Blip2QFormerModel, Blip2ForImageTextRetrieval and the bridges of Blip2ForConditionalGeneration and
InstructBlipForConditionalGeneration.
Nothing is dropped in silence: each function also returns the keys it found no home for
(the frozen parts of a whole model among them).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

StateDict = dict[str, Tensor]
Side = Literal["lavis", "huggingface"]

_TIED = {  # LAVIS writes these twice
    "Qformer.cls.predictions.decoder.weight": "Qformer.bert.embeddings.word_embeddings.weight",
    "Qformer.cls.predictions.decoder.bias": "Qformer.cls.predictions.bias",
}
_BUFFER = "Qformer.bert.embeddings.position_ids"  # LAVIS stores 0, 1, 2, ...

# (ours, LAVIS, Hugging Face); {i} is a layer's number. A tuple lists further names that are read.
_Spelled = str | tuple[str, ...] | None
_Names = tuple[str, _Spelled, _Spelled]


def _layer_names() -> list[_Names]:
    names: list[_Names] = []

    def add(ours: str, lavis: str, huggingface: str) -> None:
        names.append(
            (
                f"qformer.layers.{{i}}.{ours}",
                f"Qformer.bert.encoder.layer.{{i}}.{lavis}",
                f"qformer.encoder.layer.{{i}}.{huggingface}",
            )
        )

    for ours, theirs in (("attention", "attention"), ("cross_attention", "crossattention")):
        for part in ("query", "key", "value"):
            add(f"{ours}.{part}", f"{theirs}.self.{part}", f"{theirs}.attention.{part}")
        add(f"{ours}.output", *[f"{theirs}.output.dense"] * 2)
        add(f"{ours}.layernorm", *[f"{theirs}.output.LayerNorm"] * 2)
    for ours, kind in (("text_feed_forward", ""), ("query_feed_forward", "_query")):
        add(f"{ours}.expand", *[f"intermediate{kind}.dense"] * 2)
        add(f"{ours}.output", *[f"output{kind}.dense"] * 2)
        add(f"{ours}.layernorm", *[f"output{kind}.LayerNorm"] * 2)
    return names


_NAMES: list[_Names] = [
    ("qformer.query_tokens", "query_tokens", "query_tokens"),
    (
        "qformer.layernorm",
        "Qformer.bert.embeddings.LayerNorm",
        ("qformer.layernorm", "qformer.embeddings.layernorm"),  # the latter is InstructBLIP's
    ),
    (
        "qformer.word_embeddings",
        "Qformer.bert.embeddings.word_embeddings",
        ("embeddings.word_embeddings", "qformer.embeddings.word_embeddings"),
    ),
    (
        "qformer.position_embeddings",
        "Qformer.bert.embeddings.position_embeddings",
        ("embeddings.position_embeddings", "qformer.embeddings.position_embeddings"),
    ),
    *_layer_names(),
    ("image_layernorm", "ln_vision", "vision_model.post_layernorm"),
    ("language_projection", ("opt_proj", "t5_proj", "llm_proj"), "language_projection"),
    ("vision_projection", "vision_proj", "vision_projection"),
    ("text_projection", "text_proj", "text_projection"),
    ("itm_head", "itm_head", "itm_head"),
    ("temperature", "temp", None),
    ("generation_head.dense", "Qformer.cls.predictions.transform.dense", None),
    ("generation_head.layernorm", "Qformer.cls.predictions.transform.LayerNorm", None),
    ("generation_head.bias", "Qformer.cls.predictions.bias", None),
]


def from_lavis(state_dict: Mapping[str, Tensor]) -> tuple[StateDict, list[str]]:
    """LAVIS' names -> (ours, keys without a home). Tied copies are dropped where they agree."""
    kept = {}
    for key, tensor in state_dict.items():
        twin = state_dict.get(_TIED.get(key, ""))
        if key != _BUFFER and (twin is None or not twin.equal(tensor)):
            kept[key] = tensor
    ours, homeless = _rename(kept, "lavis", outward=False)
    if "temperature" in ours:
        ours["temperature"] = ours["temperature"].reshape(())
    return ours, homeless


def to_lavis(
    state_dict: Mapping[str, Tensor], projection: str = "opt_proj"
) -> tuple[StateDict, list[str]]:
    """Our names -> (LAVIS', keys without a home); tied weights are written twice, as LAVIS does.

    projection: what language_projection becomes; LAVIS names it after the language model.
    """
    theirs, homeless = _rename(state_dict, "lavis", outward=True)
    theirs = {
        key.replace("opt_proj", projection) if key.startswith("opt_proj.") else key: value
        for key, value in theirs.items()
    }
    theirs |= {copy: theirs[key] for copy, key in _TIED.items() if key in theirs}
    return theirs, homeless


def from_huggingface(state_dict: Mapping[str, Tensor]) -> tuple[StateDict, list[str]]:
    """Hugging Face's names -> (ours, keys without a home); Blip2QFormerModel's too."""
    if "layernorm.weight" in state_dict:  # a bare Blip2QFormerModel
        state_dict = {
            key if key == "query_tokens" or key.startswith("embeddings.") else f"qformer.{key}": (
                tensor
            )
            for key, tensor in state_dict.items()
        }
    return _rename(state_dict, "huggingface", outward=False)


def to_huggingface(
    state_dict: Mapping[str, Tensor], instruct: bool = False
) -> tuple[StateDict, list[str]]:
    """Our names -> (Hugging Face's, keys without a home: temperature, generation head).

    instruct: InstructBLIP's spelling, where it differs.
    """
    return _rename(state_dict, "huggingface", outward=True, spelling=-1 if instruct else 0)


def _rename(
    state_dict: Mapping[str, Tensor], side: Side, outward: bool, spelling: int = 0
) -> tuple[StateDict, list[str]]:
    """Rename every key; raises ValueError if two keys would get one name.

    spelling: which of several is written outward.
    """
    rules: list[tuple[re.Pattern[str], str]] = []
    for ours, lavis, huggingface in _NAMES:
        theirs = lavis if side == "lavis" else huggingface
        spellings = () if theirs is None else (theirs,) if isinstance(theirs, str) else theirs
        for spelled_so in spellings and ([spellings[spelling]] if outward else spellings):
            source, target = (ours, spelled_so) if outward else (spelled_so, ours)
            spelled = re.escape(source).replace(r"\{i\}", r"(?P<i>\d+)")
            rules.append((re.compile(rf"{spelled}(?P<leaf>|\.weight|\.bias)"), target))
    renamed: StateDict = {}
    homeless = []
    for key, tensor in state_dict.items():
        for pattern, target in rules:
            match = pattern.fullmatch(key)
            if match:
                name = target.replace("{i}", match.groupdict().get("i", "")) + match["leaf"]
                if name in renamed:
                    raise ValueError(f"{key!r} and another key both mean {name!r}")
                renamed[name] = tensor
                break
        else:
            homeless.append(key)
    return renamed, homeless
