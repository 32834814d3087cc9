"""Opening a Hugging Face folder (or hub id) strictly: whole, of the right kind, safetensors only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from qformer.contracts import CheckpointError


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


def is_folder(source: str | Path) -> bool:
    """Whether `source` is meant as a folder here rather than as a hub id."""
    return Path(source).is_dir() or isinstance(source, Path)


def open_model(
    source: str | Path,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    architecture: str | None = None,
    ignore_missing: tuple[str, ...] = (),
) -> Any:
    """The transformers model of a folder or hub id, in evaluation mode, every weight found.

    architecture: class name, by default the one config.json names. ignore_missing: prefixes of
    weights the caller does not use. Raises CheckpointError if the folder is incomplete.
    """
    quiet()
    import transformers

    if is_folder(source):
        folder = Path(source)
        names = read_json(folder / "config.json").get("architectures") or []
        if not any(folder.glob("*.safetensors")):
            raise CheckpointError(
                f"{folder} has no .safetensors weights: save it with save_pretrained, "
                "or copy the whole folder again"
            )
    else:
        try:
            config = transformers.AutoConfig.from_pretrained(source, revision=revision)
        except (OSError, ValueError):
            raise CheckpointError(
                f"{source!r} is neither a folder here nor a model the hub gave: check the name"
            ) from None
        names = config.architectures or []
    name = architecture or (names[0] if names else None)
    model_class = getattr(transformers, name or "", None)
    if model_class is None:
        raise CheckpointError(
            f"{source} names the architecture {name!r}, which transformers "
            f"{transformers.__version__} does not have"
        )
    try:
        model, info = model_class.from_pretrained(
            source, dtype=dtype, revision=revision, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers and safetensors raise a dozen kinds here
        raise CheckpointError(
            f"{source} does not open as {name} ({type(error).__name__}): "
            "a file is missing or damaged, copy the folder again"
        ) from error
    missing = sorted(k for k in info["missing_keys"] if not k.startswith(ignore_missing))
    if missing or info["mismatched_keys"]:
        wrong = missing or sorted(str(key[0]) for key in info["mismatched_keys"])
        raise CheckpointError(
            f"{source} lacks {len(wrong)} weights of {name}, {wrong[0]} first: "
            "it is another model or an incomplete copy"
        )
    return model.eval()


def quiet() -> None:
    """Import transformers without its progress bars and advice."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
