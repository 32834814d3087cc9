"""Weight files of foreign releases: found in a folder or on the hub, read, held to their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters.folder import is_folder, read_settings
from adapters.weights import Source
from qformer.contracts import CheckpointError

PICKLES = (".pt", ".pth", ".bin")


def weight_file(source: Source, names: tuple[str, ...], revision: str | None = None) -> Path:
    """A release's weights: `source` itself if it is a file, else one of `names` in that folder or
    hub id. Raises CheckpointError where there is none."""
    path = Path(source)
    if path.is_file():
        return path
    if is_folder(source):
        for name in names:
            if (path / name).is_file():
                return path / name
    else:
        from transformers.utils import cached_file

        for name in names:
            try:
                found = cached_file(str(source), name, revision=revision)
            except (OSError, ValueError):
                continue
            if found is not None:
                return Path(found)
    raise CheckpointError(
        f"{source} holds none of {', '.join(names)}: copy the release's weights into a folder and"
        " give that"
    )


def shape_of(source: Source, kind: str) -> dict[str, Any] | None:
    """What a folder's config.json says of the shape; None where it has none, as a release.

    Raises CheckpointError where it is of another model_type than `kind`.
    """
    if not is_folder(source) or not (Path(source) / "config.json").is_file():
        return None
    values = read_settings(source, "config.json")
    if (found := values.pop("model_type", None)) != kind:
        raise CheckpointError(f"{source} is a {found!r} model, not {kind!r}: choose another")
    return values


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickle, read as tensors alone; those a release
    wraps in {"model": ...} are unwrapped. Raises CheckpointError."""
    try:
        if path.suffix in PICKLES:
            held: Any = torch.load(path, map_location="cpu", weights_only=True)
        else:
            from safetensors.torch import load_file

            held = load_file(path)
    except Exception as error:  # pickle, zipfile and safetensors raise a dozen kinds
        raise CheckpointError(
            f"{path} does not open as weights ({type(error).__name__}): download it again"
        ) from error
    if isinstance(held, dict) and isinstance(held.get("model"), dict):
        held = held["model"]
    if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
        raise CheckpointError(f"{path} holds no weights (names and tensors): give another file")
    return held


def load_strictly(module: nn.Module, weights: dict[str, Tensor], source: Source) -> None:
    """Fill a module. Raises CheckpointError that names what is missing, unexpected or misshapen."""
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    odd = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    for says, names in (("lacks", missing), ("has unexpected", unexpected), ("misshapes", odd)):
        if names:
            raise CheckpointError(
                f"{source} {says} {len(names)} weights of {type(module).__name__}, {names[0]} the"
                " first: it is damaged, or of another architecture"
            )
    module.load_state_dict(weights)
