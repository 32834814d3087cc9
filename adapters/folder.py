"""Opening a Hugging Face folder (or hub id) strictly: whole, known, safetensors only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qformer.contracts import CheckpointError

Source = str | Path  # a folder here, or (str only) a model id on the hub


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
    """One JSON file (config.json, preprocessor_config.json) of a folder or hub id."""
    if is_folder(source):
        return read_json(Path(source) / name)
    from transformers.utils import cached_file

    try:
        path = cached_file(str(source), name, revision=revision)
    except (OSError, ValueError):
        path = None
    if path is None:
        raise CheckpointError(
            f"{source!r} is neither a folder here nor a model the hub gave: check the name, or, "
            "without a network, copy the model's files into a folder and give that"
        )
    return read_json(Path(path))


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
) -> Any:
    """The transformers model of a folder or hub id, in evaluation mode, every weight found.

    architecture: class name, by default the one config.json names. ignore_missing: beginnings of
    names of weights the caller does not use. Raises CheckpointError if the folder is incomplete.
    """
    named = read_settings(source, "config.json", revision).get("architectures") or [None]
    name = architecture or named[0]
    if is_folder(source) and not any(Path(source).glob("*.safetensors")):
        raise CheckpointError(
            f"{source} has no .safetensors weights: copy the whole folder again, or save it anew "
            "with save_pretrained"
        )
    import transformers

    # Straight to the class: the Auto classes import far more.
    model_class = getattr(transformers, name or "", None)
    if model_class is None:
        raise CheckpointError(
            f"config.json of {source} names the architecture {name!r}, which transformers "
            f"{transformers.__version__} does not have: choose another model"
        )
    try:
        with quiet():
            model, report = model_class.from_pretrained(
                source,
                dtype=dtype,
                revision=revision or "main",
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers and safetensors raise a dozen kinds here
        raise CheckpointError(
            f"{source} does not open as {name} ({type(error).__name__}): a file is missing or "
            "damaged, copy the folder again"
        ) from error
    wrong = sorted(
        [key for key in report["missing_keys"] if not key.startswith(ignore_missing)]
        + [str(key[0]) for key in report["mismatched_keys"]]
    )
    if wrong:  # transformers would go on with random weights
        raise CheckpointError(
            f"{source} lacks {len(wrong)} weights of {name}, {wrong[0]} the first: copy the "
            "folder again"
        )
    return model.eval()


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
