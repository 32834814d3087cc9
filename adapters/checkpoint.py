"""Loupe's checkpoint folder: what was trained, and where the frozen parts are.

config.json        adapters/config.py; frozen parts by relative folder or hub id
model.safetensors  the bridge's weights, nothing else
lora/              peft's own two files, if any
manifest.json      SHA-256 of each file above and of the frozen parts in relative folders:
                   safetensors itself loads most flipped bits without a word
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters import lora
from adapters.config import CheckpointConfig, PartConfig
from adapters.files import sha256, whole_folder
from adapters.source import read_json
from adapters.weights import check_fit
from qformer.bridge import Bridge, BridgeConfig
from qformer.config import from_dict
from qformer.contracts import CheckpointError, LoupeError
from qformer.stage1 import Stage1

SHA256 = re.compile("[0-9a-f]{64}")
CONFIG, WEIGHTS, LORA, MANIFEST = "config.json", "model.safetensors", "lora", "manifest.json"


def save_checkpoint(
    folder: str | Path,
    config: CheckpointConfig,
    bridge: Bridge,
    language: Any = None,
    dtype: torch.dtype = torch.float32,
    heads: Stage1 | None = None,
    vision: Any = None,
    base: PartConfig | None = None,
) -> None:
    """Write a whole checkpoint at once: a killed writer leaves the old one, or none.

    language: where config.lora says so, the LanguageModel with a LoRA attached, or the folder of
    one that is kept. dtype: of the stored weights. heads: of stage 1, where config.heads says so.
    vision: an encoder that was trained too; it is written into the checkpoint, where
    config.vision.path ("./vision") finds it. base: the language model under a LoRA, where whoever
    opens that by itself (peft) finds it. An older checkpoint at `folder` is replaced.
    """
    weights = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype)
        for name, value in (bridge.state_dict() | (heads.state_dict() if heads else {})).items()
    }
    with whole_folder(folder) as new:
        write_checkpoint(new, config, weights)
        if config.lora and isinstance(language, Path):
            shutil.copytree(language, new / LORA)
        elif config.lora:
            lora.save(language, new / LORA, base)
        if vision is not None:
            vision.save(new / config.vision.path)
        write_manifest(new)


def write_checkpoint(folder: Path, config: CheckpointConfig, weights: dict[str, Tensor]) -> None:
    """config.json and the weights as they are, into a folder that `whole_folder` gave."""
    from safetensors.torch import save_file

    settings = {"format": config.format} | dataclasses.asdict(config)
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / WEIGHTS)


def load_config(folder: Path) -> CheckpointConfig:
    """config.json, read strictly. Raises CheckpointError."""
    try:
        return from_dict(CheckpointConfig, read_json(folder / CONFIG))
    except CheckpointError:
        raise
    except LoupeError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from None


def load_trained(folder: Path, config: CheckpointConfig) -> tuple[Bridge, Stage1 | None]:
    """The bridge, and stage 1's heads around its Q-Former where the checkpoint holds them."""
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / WEIGHTS)
    except Exception:  # safetensors' own error, or the system's
        raise CheckpointError(
            f"{folder / WEIGHTS} is missing or damaged: copy the folder again"
        ) from None
    what = f"{folder / WEIGHTS} does not fit {CONFIG}"
    return trained_of(config.bridge, weights, what, heads=config.heads)


def check_weights(
    config: BridgeConfig,
    weights: Mapping[str, Tensor],
    what: str,
    homeless: Sequence[str] = (),
    heads: bool = False,
    absent: tuple[str, ...] = (),
) -> tuple[Bridge, Stage1 | None]:
    """The empty modules that `weights` fit; arguments and errors as for trained_of."""
    from transformers.initialization import no_init_weights

    # No time is spent on weights that are replaced at once.
    with torch.device("meta"), no_init_weights():
        bridge = Bridge(config)
    stage1 = Stage1(bridge.qformer) if heads else None
    known = bridge.state_dict() | (stage1.state_dict() if stage1 else {})
    check_fit(known, weights, what, homeless, absent)
    return bridge, stage1


def trained_of(
    config: BridgeConfig,
    weights: dict[str, Tensor],
    what: str,
    homeless: Sequence[str] = (),
    heads: bool = False,
    absent: tuple[str, ...] = (),
) -> tuple[Bridge, Stage1 | None]:
    """A bridge, and stage 1's heads, in float32 with exactly these weights, by our names.

    homeless: foreign names nothing of ours answers to. absent: beginnings of names that need not
    be there, and then keep their start. what: how the message of a CheckpointError begins, if
    weights are missing, left over or of another shape.
    """
    bridge, stage1 = check_weights(config, weights, what, homeless, heads, absent)
    floats = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    own = bridge.state_dict().keys()
    bridge.load_state_dict({k: v for k, v in floats.items() if k in own}, assign=True)
    if stage1 is not None:
        stage1.load_state_dict(
            {k: v for k, v in floats.items() if not k.startswith("qformer.") and k not in own},
            strict=False, assign=True,
        )  # fmt: skip
    return bridge, stage1


def write_manifest(folder: Path) -> None:
    """(Re)write manifest.json from the files as they are now."""
    list_files(folder, guarded(folder, load_config(folder)))


def list_files(folder: Path, names: Sequence[str]) -> None:
    """Write a manifest.json of these files."""
    (folder / MANIFEST).write_text(manifest_of({name: sha256(folder / name) for name in names}))


def manifest_of(files: Mapping[str, str], **more: Any) -> str:
    """A manifest of digests by file name, which guards itself, too; more: keys that stand first."""
    values = {**more, "sha256": dict(files)}
    return json.dumps(values | {"self": _digest(values)}, indent=2) + "\n"


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and bool(SHA256.fullmatch(value))


def files_of(manifest: Path) -> dict[str, str]:
    """What a manifest says, by file name. Raises CheckpointError, naming it, where it is damaged
    itself; one of before it guarded itself can only be seen to be no manifest."""
    values = read_json(manifest)
    files, own = values.get("sha256"), values.pop("self", None)
    known = values.keys() <= {"step", "sha256"} and own in (None, _digest(values))
    if known and isinstance(files, dict) and all(map(_is_digest, files.values())):
        return files
    raise CheckpointError(f"{manifest} is damaged: copy the folder again")


def verify(folder: Path, listed: str = CONFIG) -> None:
    """Raises CheckpointError, naming the file, if one is missing or differs by as much as a bit.

    listed: a file without which the manifest is none."""
    files = files_of(folder / MANIFEST)
    if listed not in files:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: copy the folder again")
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: copy the whole checkpoint again")
        if sha256(path) != expected:
            raise CheckpointError(
                f"{path} is damaged (its SHA-256 is not the manifest's): copy it again"
            )


def guarded(folder: Path, config: CheckpointConfig) -> list[str]:
    """Files the manifest lists, relative to the checkpoint: its own, and the parts' beside it."""
    own = [folder / CONFIG, folder / WEIGHTS]
    folders = [folder / LORA] if config.lora else []
    folders += [folder / part.path for part in config.parts if is_relative(folder, part.path)]
    paths = own + [file for one in folders for file in one.glob("*") if file.is_file()]
    return sorted({Path(os.path.relpath(path, folder)).as_posix() for path in paths})


def is_relative(folder: Path, path: str) -> bool:
    """Whether a part's path is a folder relative to the checkpoint, rather than a hub id."""
    return not Path(path).is_absolute() and (path.startswith(".") or (folder / path).is_dir())
