"""Weight files of foreign releases: found in a folder or on the hub, read, held to their names."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters.source import CONFIG, ModelSource, Source
from adapters.weights import check_fit
from qformer.contracts import CheckpointError

PICKLES = (".pt", ".pth", ".bin")


def weight_file(source: Source, names: tuple[str, ...]) -> Path:
    """A release's weights: `source` itself if it is a file, else one of `names` in that folder or
    hub id. Raises CheckpointError where there is none."""
    source = ModelSource.of(source)
    if source.folder.is_file():
        return source.folder
    for name in names:
        if (found := source.file(name)) is not None:
            return found
    raise CheckpointError(
        f"{source} holds none of {', '.join(names)}: copy the release's weights into a folder and"
        " give that"
    )


def shape_of(source: Source, kind: str) -> dict[str, Any] | None:
    """What a folder's config.json says of the shape; None where it has none, as a release.

    Raises CheckpointError where it is of another model_type than `kind`.
    """
    source = ModelSource.of(source)
    if not source.is_folder or source.file(CONFIG) is None:
        return None
    values = source.settings()
    if (found := values.pop("model_type", None)) != kind:
        raise CheckpointError(f"{source} is a {found!r} model, not {kind!r}: choose another")
    return values


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickle, mapped into memory where its format
    allows, by torch's reader of weights alone: it runs no code. Those wrapped in {"model": ...}
    are unwrapped. Raises CheckpointError."""
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}: check the path")
    try:
        if file.suffix in PICKLES:
            saved: Any = torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
        else:
            from safetensors.torch import load_file

            saved = load_file(file)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file} is damaged or holds more than weights, which could run code: it is refused"
        ) from None
    except Exception:  # the readers raise a dozen kinds, a KeyError for a text among them
        raise CheckpointError(f"{file} is damaged or cut short: copy it again") from None
    weights = saved.get("model", saved) if isinstance(saved, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise CheckpointError(f"{file} holds no weights (names and tensors): give another file")
    return weights


def load_strictly(module: nn.Module, weights: dict[str, Tensor], file: Path) -> None:
    """Fill a module with a file's weights. Raises CheckpointError that names what is missing,
    unexpected or misshapen."""
    what = f"{file} is damaged, or no {type(module).__name__} of this shape"
    check_fit(module.state_dict(), weights, what)
    module.load_state_dict(weights)
