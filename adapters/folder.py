"""Opening a Hugging Face folder (or hub id) strictly: whole, known, safetensors only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from adapters import memory, quantize
from adapters.memory import Count, Placement, Shapes
from adapters.source import CONFIG, ModelSource, Source, listed
from adapters.weights import WeightFiles
from qformer.contracts import CheckpointError, LoupeError

HERE = Placement()
AT_LEAST_ONE = (  # where a config.json names them
    *("hidden_size", "d_model", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_layers", "num_heads", "rope_theta"),
)
LANGUAGE_CLASSES = {  # of the language models in whole models
    "opt": "OPTForCausalLM",
    "llama": "LlamaForCausalLM",
    "t5": "T5ForConditionalGeneration",
}


def revision_of(source: str) -> str:
    """The commit of a hub id's files, as they are cached here."""
    from transformers.utils import cached_file

    path = cached_file(source, CONFIG)
    parts = Path(str(path)).parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else "unknown"


def open_model(
    source: Source,
    dtype: torch.dtype = torch.float32,
    architecture: str | None = None,
    ignore_missing: tuple[str, ...] = (),
    part: str | None = None,
    placement: Placement = HERE,
) -> Any:
    """The transformers model of a folder or hub id, in evaluation mode, every weight found.

    architecture: class name, by default the one config.json names. ignore_missing: beginnings of
    names of weights the caller does not use. part: the one wanted of a whole BLIP-2 or
    InstructBLIP, "vision_model" or "language_model". Weights stay where the files are mapped into
    memory, unless they are to have another dtype; those are changed one by one. Raises
    CheckpointError if the folder is incomplete or the memory too small.
    """
    source = ModelSource.of(source)
    settings = source.settings()
    if part == "language_model":
        settings = settings.get("text_config") or {}
        architecture = architecture or LANGUAGE_CLASSES.get(settings.get("model_type", ""))
    check_settings(settings, source)
    told = settings.get("architectures") or [None]
    name = architecture or (told[0] if isinstance(told, list) else None)
    stored = WeightFiles(source)
    prefix = f"{part}." if part else ""
    theirs = {key: shape for key, shape in stored.shapes().items() if key.startswith(prefix)}
    memory.check(source, Count.of(theirs if part else named(theirs)), dtype, placement)
    import transformers

    # Straight to the class: the Auto classes import far more.
    model_class = getattr(transformers, name, None) if isinstance(name, str) else None
    if model_class is None:
        raise CheckpointError(
            f"config.json of {source} names the architecture {name!r}, which transformers "
            f"{transformers.__version__} does not have: choose another model"
        )
    options: dict[str, Any] = {}
    if part:
        options["key_mapping"] = {rf"^{part}\.": ""}
    if part == "language_model":
        whole = transformers.AutoConfig.from_pretrained(**source.pinned)
        options["config"] = whole.text_config
    if placement.quantize:
        options["quantization_config"] = quantize.settings(placement.quantize, dtype)
        options["device_map"] = placement.device_map or {"": placement.device}
    elif placement.device_map:
        quantize.require("--device-map", "accelerate")
        options["device_map"] = placement.device_map
    try:
        with quiet():
            model, report = model_class.from_pretrained(
                **source.pinned,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are listed below
                **options,
            )
    except Exception as error:  # transformers and safetensors raise a dozen kinds here
        raise CheckpointError(
            f"{source} does not open as {name} ({type(error).__name__}): a file is missing or "
            "damaged, copy the folder again"
        ) from error
    missing = [key for key in report["missing_keys"] if not key.startswith(ignore_missing)]
    missing += tables_lost(model.config, {key.removeprefix(prefix) for key in theirs})
    shaped = [str(key[0]) for key in report["mismatched_keys"]]
    own = {numberless(key) for key in model.state_dict()}
    beyond = [
        prefix + key
        for key in report["unexpected_keys"]
        if (part and prefix + key in theirs) or numberless(key) in own  # a layer too many
    ]
    for keys, how in (
        (missing, "lacks {} weights of {}: {}"),
        (shaped, "has {} weights of {} in another shape: {}"),
        (beyond, "has {} weights that no {} has: {}"),
    ):
        if keys:  # transformers would go on with random weights
            says = how.format(len(keys), name, listed(keys))
            raise CheckpointError(f"{source} {says}; copy the folder again")
    if part == "language_model":  # as transformers' own generate has it, whatever the folder says
        model.generation_config = transformers.GenerationConfig.from_model_config(model.config)
    if placement.quantize:
        quantize.guard(model)
    return model.eval()


@contextmanager
def opening(source: Source) -> Iterator[None]:
    """Around what opens a model: whatever a library raises over settings or files, as a
    CheckpointError."""
    try:
        yield
    except LoupeError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{source} does not open ({type(error).__name__}): a setting or file of it is damaged,"
            " copy the folder again"
        ) from error


def numberless(key: str) -> str:
    """A weight's name without the numbers of its layers."""
    return re.sub(r"\d+", "#", key)


def check_settings(settings: dict[str, Any], source: Source, where: str = "") -> None:
    """Raises CheckpointError for values that transformers takes in silence and no model has."""
    for key, value in settings.items():
        name, number = f"{where}{key}", isinstance(value, int | float)
        if isinstance(value, dict):
            check_settings(value, source, f"{name}.")
        elif number and key.endswith(("_eps", "_epsilon")) and not 0 < value < 1:
            raise CheckpointError(f"{name}={value!r:.60} of {source} must lie between 0 and 1")
        elif number and key in AT_LEAST_ONE and not value >= 1:
            raise CheckpointError(f"{name}={value!r:.60} of {source} must be at least 1")


def tables_lost(config: Any, stored: set[str]) -> list[str]:
    """What transformers (5) would make up in silence for a T5: it gives the table of words and the
    head each other's weights where one is not stored. stored: names of weights."""
    if config.model_type != "t5":
        return []
    lost = [] if {"shared.weight", "encoder.embed_tokens.weight"} & stored else ["shared.weight"]
    if not config.scale_decoder_outputs and "lm_head.weight" not in stored:
        lost.append("lm_head.weight")  # a T5 1.1, as every Flan-T5 is, has a head of its own
    return lost


def named(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes of a model in a folder of its own, by the names they have in a whole one."""
    return {f"language_model.{key}": shape for key, shape in shapes.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers inside."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
