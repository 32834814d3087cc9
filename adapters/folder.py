"""Opening a Hugging Face folder (or hub id) strictly: whole, known, safetensors only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from adapters import memory, quantize
from adapters.memory import Count, Placement, Shapes
from adapters.weights import Source, WeightFiles, not_here
from qformer.contracts import CheckpointError

HERE = Placement()
PROCESSOR, IMAGE_PROCESSOR = "processor_config.json", "preprocessor_config.json"
# model_types of whole models, which hold a `vision_model` and perhaps a `language_model`
WHOLE = ("blip-2", "instructblip")
LANGUAGE_CLASSES = {  # of the language models in them
    "opt": "OPTForCausalLM",
    "llama": "LlamaForCausalLM",
    "t5": "T5ForConditionalGeneration",
}


def is_folder(source: Source) -> bool:
    """Whether `source` is meant as a folder here rather than as a hub id."""
    return isinstance(source, Path) or Path(source).is_dir()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`. Raises CheckpointError if it is missing or is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: copy the whole folder again") from None
    except (OSError, ValueError):
        raise CheckpointError(f"{path} is not readable JSON: copy the folder again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a JSON object: copy the folder again")
    return values


def read_settings(source: Source, name: str, revision: str | None = None) -> dict[str, Any]:
    """One JSON file (config.json, tokenizer_config.json) of a folder or hub id."""
    if is_folder(source):
        return read_json(Path(source) / name)
    path = file_of(source, name, revision)
    if path is None:
        raise CheckpointError(not_here(source))
    return read_json(path)


def file_of(source: Source, name: str, revision: str | None = None) -> Path | None:
    """Where a file of a folder or hub id lies; None where there is none."""
    if is_folder(source):
        path = Path(source) / name
        return path if path.exists() else None
    from transformers.utils import cached_file

    try:
        found = cached_file(str(source), name, revision=revision)
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found)


def read_image_processor(source: Source, revision: str | None = None) -> dict[str, Any]:
    """As `find_image_processor`. Raises CheckpointError where a folder or hub id does not say."""
    settings = find_image_processor(source, revision)
    if settings is None:
        raise CheckpointError(
            f"{source} has neither {IMAGE_PROCESSOR} nor pictures' settings in {PROCESSOR}: copy"
            " the whole folder again"
        )
    return settings


def find_image_processor(source: Source, revision: str | None = None) -> dict[str, Any] | None:
    """How a folder or hub id wants its pictures; None where it does not say.

    As transformers' get_image_processor_dict finds it: in processor_config.json, where version 5
    writes it, else in preprocessor_config.json.
    """
    whole = file_of(source, PROCESSOR, revision)
    nested = None if whole is None else read_json(whole).get("image_processor")
    if nested is not None:
        if not isinstance(nested, dict):
            raise CheckpointError(f'"image_processor" in {whole} is not an object: copy it again')
        return nested
    alone = file_of(source, IMAGE_PROCESSOR, revision)
    return None if alone is None else read_json(alone)


def revision_of(source: str) -> str:
    """The commit of a hub id's files, as they are cached here."""
    from transformers.utils import cached_file

    path = cached_file(source, "config.json")
    parts = Path(str(path)).parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else "unknown"


def open_model(
    source: Source,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
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
    settings = read_settings(source, "config.json", revision)
    if part == "language_model":
        settings = settings.get("text_config") or {}
        architecture = architecture or LANGUAGE_CLASSES.get(settings.get("model_type", ""))
    name = architecture or (settings.get("architectures") or [None])[0]
    stored = WeightFiles(source, revision)
    prefix = f"{part}." if part else ""
    theirs = {key: shape for key, shape in stored.shapes().items() if key.startswith(prefix)}
    memory.check(source, Count.of(theirs if part else named(theirs)), dtype, placement)
    import transformers

    # Straight to the class: the Auto classes import far more.
    model_class = getattr(transformers, name or "", None)
    if model_class is None:
        raise CheckpointError(
            f"config.json of {source} names the architecture {name!r}, which transformers "
            f"{transformers.__version__} does not have: choose another model"
        )
    options: dict[str, Any] = {}
    if part:
        options["key_mapping"] = {rf"^{part}\.": ""}
    if part == "language_model":
        whole = transformers.AutoConfig.from_pretrained(source, revision=revision or "main")
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
                source,
                dtype=dtype,
                revision=revision or "main",
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
    beyond = [prefix + key for key in report["unexpected_keys"] if part and prefix + key in theirs]
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


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names in a message, the first few."""
    ordered = sorted(names)
    rest = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {rest} more" if rest > 0 else "")


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
