"""The `loupe` command. Nothing heavy is imported before a command runs: --help answers at once."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from demo.arguments import parse


def dtype_wanted(args: argparse.Namespace) -> Any:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[args.dtype]


def assistant_of(args: argparse.Namespace) -> Any:
    from adapters.build import build

    assistant = build(
        args.model, args.segmenter, args.device, dtype_wanted(args),
        vision=args.vision, language=args.language,
    )  # fmt: skip
    decoding = decoding_wanted(args, assistant.config.decoding)
    assistant.config = dataclasses.replace(assistant.config, decoding=decoding)
    return assistant


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


def warn_unfamiliar(view: Any) -> bool:
    """Say so on standard error where the picture is not of a kind the model knows."""
    if not view.familiar:
        from demo.session import unfamiliar

        print(f"loupe: note: {unfamiliar(view.assistant)}", file=sys.stderr)
    return view.familiar


def print_json(values: dict) -> None:
    print(json.dumps(values, ensure_ascii=False), flush=True)


# Commands ------------------------------------------------------------------------------------


def run_ask(args: argparse.Namespace) -> int:
    from adapters.images import load_image
    from demo import batch
    from qformer.contracts import QuestionError

    if args.batch is not None:
        if args.image or args.regions:
            raise QuestionError("--batch brings its own pictures, questions and regions: give none")
        return batch.run(args.batch, lambda: assistant_of(args))
    if args.image is None or args.question is None:
        raise QuestionError("give IMAGE and QUESTION, or --batch FILE")
    if not args.question.strip():
        raise QuestionError("the question is empty: type one")
    image = load_image(args.image)
    view = assistant_of(args).encode(image)
    regions = [batch.region(view, wanted, n) for n, wanted in enumerate(args.regions, 1)]
    familiar = warn_unfamiliar(view)
    start = time.perf_counter()
    pieces = view.converse().ask(args.question, regions)
    if not args.json:
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        return 0
    answer = "".join(pieces)
    print_json({
        "image": args.image, "question": args.question, "answer": answer,
        "regions": [batch.described(region) for region in regions],
        "familiar": familiar, "seconds": round(time.perf_counter() - start, 4),
        "grounding": round(view.grounding(args.question, regions, answer), 3) if regions else None,
        "decoding": dataclasses.asdict(view.assistant.config.decoding),
    })  # fmt: skip
    return 0


def run_caption(args: argparse.Namespace) -> int:
    from adapters.images import load_image

    image = load_image(args.image)
    view = assistant_of(args).encode(image)
    familiar = warn_unfamiliar(view)
    start = time.perf_counter()
    caption = view.caption()
    seconds = round(time.perf_counter() - start, 4)
    if args.json:
        print_json({
            "image": args.image, "caption": caption, "familiar": familiar, "seconds": seconds,
            "decoding": dataclasses.asdict(view.assistant.config.decoding),
        })  # fmt: skip
    else:
        print(caption)
    return 0


def run_segment(args: argparse.Namespace) -> int:
    from PIL import Image

    from adapters.images import load_image
    from demo import batch, draw
    from qformer.contracts import RegionError

    if not args.regions:
        raise RegionError("nothing is pointed at: give --point X,Y or --box X0,Y0,X1,Y1")
    image = load_image(args.image)
    view = assistant_of(args).encode(image)
    regions = [batch.region(view, wanted, n) for n, wanted in enumerate(args.regions, 1)]
    report = []
    for number, region in enumerate(regions, 1):
        path = Path(args.out)
        if len(regions) > 1:
            path = path.with_name(f"{path.stem}-{number}{path.suffix}")
        save(Image.fromarray(region.region_mask.cpu().numpy()), path)
        report.append({**batch.described(region), "file": str(path)})
    if args.overlay:
        masks = enumerate((region.region_mask.cpu().numpy() for region in regions), 1)
        save(draw.overlay(image.numpy(), masks), Path(args.overlay))
    if args.json:
        print_json({"image": args.image, "regions": report})
        return 0
    for number, one in enumerate(report, 1):
        box = ",".join(map(str, one["box"]))
        measured = f"box {box}, {one['area']} pixels, score {one['score']:.2f}"
        print(f"region {number}: {measured}: {one['file']}")
    return 0


def run_rank(args: argparse.Namespace) -> int:
    from adapters.images import load_image
    from adapters.published import open_retrieval
    from qformer.contracts import ImageError, LoupeError
    from qformer.retrieval import KEEP

    if args.top < 1:
        raise LoupeError(f"--top {args.top}: show at least 1")
    ranker = open_retrieval(args.model, dtype_wanted(args)).to(args.device)
    ranker.read_text(args.text)  # a mistake shows before any picture is read
    shown: list[str] = []

    def images() -> Iterator[Any]:
        for number, file in enumerate(args.images, 1):
            if sys.stderr.isatty():
                print(f"\r{number} of {len(args.images)}", end="", file=sys.stderr)
            try:
                image = load_image(file)
            except ImageError as error:  # one bad file must not lose the rest
                print(f"loupe: {error}", file=sys.stderr)
                continue
            shown.append(file)
            yield image

    matches = ranker.rank(images(), args.text, max(args.top, KEEP))[: args.top]
    if not matches:
        raise LoupeError("no picture could be read")
    for place, match in enumerate(matches, 1):
        file = shown[match.index]
        if args.json:
            print_json({
                "image": file, "score": round(match.score, 4),
                "itc": round(match.itc, 4), "itm": round(match.itm, 4),
            })  # fmt: skip
        else:
            print(f"{place}. {file}  {match.score:.3f}")
    return 0


def save(picture: Any, path: Path) -> None:
    """Write a picture, or say in a line why not."""
    from qformer.contracts import LoupeError

    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "use .png"
        raise LoupeError(f"cannot write {path}: {reason}") from None


def run_chat(args: argparse.Namespace) -> int:
    from qformer.contracts import LoupeError

    auth = tuple(args.auth.split(":", 1)) if args.auth else None
    if auth is not None and (len(auth) != 2 or not all(auth)):
        raise LoupeError("--auth is NAME:PASSWORD")
    if args.host not in ("127.0.0.1", "localhost", "::1") and auth is None:
        raise LoupeError(f"on {args.host} others can reach the chat: add --auth NAME:PASSWORD")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        from demo.app import launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise LoupeError('the chat needs gradio: pip install "loupe-assistant[demo]"') from None
    title = "embedded default" if args.model == "embedded" else Path(args.model).name
    blocks = launch(
        lambda: assistant_of(args), title, args.host, args.port, auth, open_browser=args.open
    )
    print(f"Loupe is at {blocks.local_url} (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()
    blocks.close(verbose=False)
    sys.stdout.flush()
    os._exit(0)  # a model that is still being loaded cannot be waited for, nor stopped cleanly


def run_doctor(args: argparse.Namespace) -> int:
    from demo import doctor

    return doctor.run(as_json=args.json)


def run_train(argv: list[str]) -> int:
    try:
        from train.cli import main as train
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("accelerate", "peft"):
            hint = f'training needs {error.name}: pip install "loupe-assistant[train]"'
            print(f"loupe: {hint}", file=sys.stderr)
            return 2
        raise
    return train(argv) or 0


COMMANDS = {
    "ask": run_ask,
    "caption": run_caption,
    "segment": run_segment,
    "rank": run_rank,
    "chat": run_chat,
    "doctor": run_doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 2 with one line on standard error for what the user can put right."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = None if words[:1] == ["train"] else parse(words)
    from qformer.contracts import LoupeError

    try:
        return run_train(words[1:]) if args is None else COMMANDS[args.command](args)
    except LoupeError as error:
        print("loupe: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
