"""Loupe's own checkpoints, read and written with their weights as they are stored."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from adapters.build import locate
from adapters.checkpoint import (
    LORA,
    WEIGHTS,
    check_weights,
    load_config,
    verify,
    write_checkpoint,
    write_manifest,
)
from adapters.convert.model import Model, Report
from adapters.files import whole_folder
from adapters.weights import save_weights
from qformer.contracts import CheckpointError


def read(folder: Path) -> Model:
    from safetensors.torch import load_file

    verify(folder)
    config = load_config(folder)
    weights = load_file(folder / WEIGHTS)
    check_weights(config.bridge, weights, f"{folder / WEIGHTS}", heads=config.heads)

    def placed(part: Any) -> Any:
        return dataclasses.replace(part, path=locate(folder, part).absolute)

    parts: dict[str, Any] = {
        name: placed(part)
        for name in ("vision", "language", "segmenter", "tokenizer")
        if (part := getattr(config, name)) is not None
    }
    config = dataclasses.replace(config, **parts)
    return Model(config, weights, lora=folder / LORA if config.lora else None)


def write(model: Model, target: Path) -> Report:
    if model.lora is not None:
        raise CheckpointError("this is a Loupe checkpoint already: copy the folder")
    config, remarks = model.config, []
    with whole_folder(target) as folder:
        if model.loose is not None:
            (folder / "vision").mkdir()
            save_weights(model.loose.weights, folder / "vision")
            for name, values in (
                ("config.json", model.loose.config),
                ("preprocessor_config.json", model.loose.preprocessor),
            ):
                (folder / "vision" / name).write_text(json.dumps(values, indent=2) + "\n")
            config = dataclasses.replace(
                config, vision=dataclasses.replace(config.vision, path="vision")
            )
            remarks.append("the vision encoder's weights lie in vision/")
        write_checkpoint(folder, config, model.weights)
        write_manifest(folder)
    return Report("a Loupe checkpoint", len(model.weights), (), model.homeless, tuple(remarks))
