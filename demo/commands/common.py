"""What several commands do: build the assistant an option names, report, save."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any


def dtype_wanted(args: argparse.Namespace) -> Any:
    from adapters.memory import DTYPES

    return DTYPES[args.dtype]


def model_of(args: argparse.Namespace) -> str:
    """The model that is asked for, the default where none is: args.model from now on. On standard
    error, why it is not the photos' one where that cannot be had."""
    if args.model is None:
        from adapters.defaults import default_model

        args.model, why = default_model()
        if why:
            print(f"loupe: note: {why}", file=sys.stderr)
    return args.model


def assistant_of(args: argparse.Namespace) -> Any:
    from adapters.build import build

    assistant = build(
        model_of(args), args.segmenter, args.device, dtype_wanted(args),
        vision=args.vision, language=args.language, tokenizer=args.tokenizer,
        quantize=args.quantize, device_map=args.device_map,
    )  # fmt: skip
    config = assistant.config
    composer = getattr(args, "composer", None) or config.prompt.composer
    assistant.config = dataclasses.replace(
        config,
        decoding=decoding_wanted(args, config.decoding),
        prompt=dataclasses.replace(config.prompt, composer=composer),
    )
    return assistant


def settings_used(assistant: Any) -> dict[str, Any]:
    """How answers were written, for --json. preset: null where it is the model's own way."""
    from adapters.published import PRESETS

    prompt, decoding = assistant.config.prompt, assistant.config.decoding
    preset = next((name for name, one in PRESETS.items() if one == decoding), None)
    return {"composer": prompt.composer, "preset": preset, "decoding": dataclasses.asdict(decoding)}


def decoding_wanted(args: argparse.Namespace, own: Any) -> Any:
    """The model's own Decoding, or a preset's, with what the options change."""
    from adapters.published import PRESETS

    preset = getattr(args, "preset", None)
    base = PRESETS[preset] if preset else own
    names = ("max_new_tokens", "beams", "temperature")
    changes = {name: getattr(args, name, None) for name in names}
    changes = {name: value for name, value in changes.items() if value is not None}
    if "max_new_tokens" in changes:  # a shorter answer than the preset's shortest is meant
        changes["min_new_tokens"] = min(base.min_new_tokens, max(0, changes["max_new_tokens"]))
    return dataclasses.replace(base, **changes)


def warn_unfamiliar(view: Any, model: str) -> bool:
    """Say so on standard error where the picture is not of a kind the model knows, or another
    default knows it better."""
    from adapters.defaults import default_named
    from demo.advice import advice

    said = advice(view, default_named(model) or "")
    if said is not None:
        text, offers = said
        print(f"loupe: note: {text}{f' (--model {offers})' if offers else ''}", file=sys.stderr)
    return view.familiar


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def print_json(values: dict) -> None:
    print(json.dumps(values, ensure_ascii=False), flush=True)


def save(picture: Any, path: Path) -> None:
    """Write a picture, or say in a line why not."""
    from qformer.contracts import LoupeError

    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "use .png"
        raise LoupeError(f"cannot write {path}: {reason}") from None
