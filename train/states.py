"""Training states on disk: whole or not there, newest first, guarded by SHA-256.

    state/step-00000800/   module.pt optimizers.pt run.pt ... manifest.json

A state is written whole (`whole_folder`). safetensors and torch both load
most flipped bits without a word, hence the manifest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters.checkpoint import files_of, manifest_of
from adapters.files import sha256, whole_folder
from qformer.contracts import CheckpointError, LoupeError

MANIFEST = "manifest.json"
KEPT = 2  # newest whole states


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """List the steps of the states in a run's folder, newest first."""
    names = (path.name.removeprefix("step-") for path in (folder / "state").glob("step-*"))
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def save(
    folder: Path,
    step: int,
    parts: Mapping[str, Any],
    more: Callable[[Path], None] | None = None,
    kept: int = KEPT,
) -> None:
    """Write the state of `step`, then forget older ones.

    parts: name -> what torch.save writes as name.pt. more: writes further files into the folder it
    is given. Raises LoupeError if the disk is full; older states are then as they were.
    """
    states = folder / "state"
    try:
        states.mkdir(parents=True, exist_ok=True)
        for left in states.glob(".*"):  # of a killed writer
            shutil.rmtree(left, ignore_errors=True)
        with whole_folder(states / name_of(step)) as new:
            for name, value in parts.items():
                torch.save(value, new / f"{name}.pt")
            if more is not None:
                more(new)
            files = {
                path.relative_to(new).as_posix(): sha256(path)
                for path in sorted(new.rglob("*"))
                if path.is_file()
            }
            (new / MANIFEST).write_text(manifest_of(files, step=step))
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        raise full(folder, error) from None
    for old in steps_in(folder)[kept:]:
        shutil.rmtree(states / name_of(old), ignore_errors=True)


def full(folder: Path, error: Exception) -> LoupeError:
    steps = steps_in(folder)
    last = f"step {steps[0]} is whole" if steps else "nothing was saved yet"
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "disk full"
    return LoupeError(
        f"the state could not be written to {folder} ({reason}); {last}: free some space and run "
        "again with --resume auto"
    )


def newest(folder: Path, say: Callable[[str], None] = print) -> Path | None:
    """The newest state that is whole; what is damaged is passed over, and said."""
    for step in steps_in(folder):
        state = folder / "state" / name_of(step)
        wrong = damage(state)
        if wrong is None:
            return state
        say(f"{state} is damaged ({wrong}): falling back to the one before")
    return None


def damage(state: Path) -> str | None:
    """What is wrong with a state's files; None if nothing."""
    try:
        for name, expected in files_of(state / MANIFEST).items():
            if sha256(state / name) != expected:
                return f"{name} has changed"
    except CheckpointError:
        return f"{MANIFEST} has changed, or is missing"
    except (OSError, ValueError):
        return "a file is missing"
    return None


def part(state: Path, name: str) -> Any:
    return torch.load(state / f"{name}.pt", weights_only=True, map_location="cpu")


def trained_module(folder: Path) -> dict[str, Tensor]:
    """The trained weights of a run's newest state. Raises LoupeError if it has none."""
    state = newest(folder)
    if state is None:
        raise LoupeError(f"{folder} holds no training state: train it first")
    return part(state, "module")


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module without its frozen parameters."""
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


def load_trained(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put a `trained_state` back. Raises LoupeError if it is of another model."""
    ours = {name: value.shape for name, value in trained_state(module).items()}
    theirs = {name: value.shape for name, value in state.items()}
    odd = sorted(name for name, _ in ours.items() ^ theirs.items())
    if odd:
        raise LoupeError(
            f"the saved state is of another model ({odd[0]} differs): remove its folder, or go on "
            "with the config it was made with"
        )
    module.load_state_dict(state, strict=False)
