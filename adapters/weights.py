"""Safetensors files: read by name from however many shards, and written shard by shard."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from adapters.source import ModelSource, Source, listed, not_here
from qformer.contracts import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 2_000_000_000


class WeightFiles:
    """The weights of a folder or hub id by name; nothing is read before it is asked for.

    A tensor lies where its file is mapped into memory: it takes room once, and costs no copy.
    Raises CheckpointError if there are no safetensors, or they are damaged.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._handles: dict[str, Any] = {}  # name of a weight -> its open file
        from safetensors import safe_open

        for file in weight_files(source):
            try:
                handle = safe_open(file, "pt")
            except Exception:  # safetensors' own error, or the system's
                raise CheckpointError(
                    f"{file} is missing or damaged: copy the folder again"
                ) from None
            self._handles |= dict.fromkeys(handle.keys(), handle)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            name: tuple(handle.get_slice(name).get_shape())
            for name, handle in self._handles.items()
        }

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: self._handles[name].get_tensor(name) for name in names}

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __contains__(self, name: str) -> bool:
        return name in self._handles


def weight_files(source: Source) -> list[Path]:
    """The safetensors of a folder, or of a hub id (fetched, where they are not here yet)."""
    source = ModelSource.of(source)
    if not source.is_folder:
        from transformers.utils import cached_file
        from transformers.utils.hub import get_checkpoint_shard_files

        hub_id, revision = str(source), source.revision
        told = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
        try:
            index = cached_file(hub_id, INDEX, **told)
            if index is not None:
                shards, _ = get_checkpoint_shard_files(hub_id, index, revision=revision)
                return [Path(file) for file in shards]
            single = cached_file(hub_id, SINGLE, **told)
        except (OSError, ValueError):
            raise CheckpointError(not_here(source)) from None
        if single is None:
            raise CheckpointError(f"{source} has no .safetensors weights: choose another model")
        return [Path(single)]
    files = sorted(source.folder.glob("model*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{source} has no .safetensors weights: copy the whole folder again, or save it anew "
            "with save_pretrained"
        )
    return files


def check_fit(
    known: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    what: str,
    homeless: Iterable[str] = (),
    absent: tuple[str, ...] = (),
) -> None:
    """Hold `weights` to the names and shapes of a module's state. Raises CheckpointError.

    what: how the message begins. homeless: foreign names nothing of ours answers to. absent:
    beginnings of names that need not be there.
    """
    missing = {name for name in known.keys() - weights if not name.startswith(absent)}
    unexpected = [*(weights.keys() - known), *homeless]
    if missing or unexpected:
        raise CheckpointError(
            f"{what}: {len(missing)} weights missing ({listed(missing) or 'none'}), "
            f"{len(unexpected)} unexpected ({listed(unexpected) or 'none'})"
        )
    shaped = {
        f"{name} is {tuple(value.shape)}, expected {tuple(known[name].shape)}"
        for name, value in weights.items()
        if value.shape != known[name].shape
    }
    if shaped:
        raise CheckpointError(f"{what}: {listed(shaped)}")


def parameters(file: Path) -> int:
    """Values in a safetensors file, from its list alone. Raises CheckpointError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as held:
            return sum(math.prod(held.get_slice(name).get_shape()) for name in held.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        raise CheckpointError(f"{file} is missing or damaged: copy the folder again") from None


def save_weights(
    weights: Mapping[str, Tensor], folder: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write `weights` as transformers does: one file, or shards and their index.

    One shard at a time is copied; tensors that lie in mapped files are never all in memory.
    """
    from safetensors.torch import save_file

    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, value in weights.items():
        if value.nbytes > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= value.nbytes
    count = len(shards)
    files = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    if count == 1:
        files = [SINGLE]
    for file, names in zip(files, shards, strict=True):
        # Each tensor with memory of its own: safetensors refuses two that share theirs.
        shard = {name: weights[name].detach().cpu().clone().contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
    if count > 1:
        where = {n: file for file, names in zip(files, shards, strict=True) for n in names}
        size = sum(value.nbytes for value in weights.values())
        told = {"metadata": {"total_size": size}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(told, indent=2) + "\n")
