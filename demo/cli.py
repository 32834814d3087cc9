"""The `loupe` command. Nothing heavy is imported before a command runs: --help answers at once."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

EXAMPLES = {
    "loupe": """examples:
  loupe ask scene.png "how many stars are there?"
  loupe ask scene.png "what is this?" --point 120,80
  loupe ask scene.png "which is bigger?" --point 120,80 --point 300,210
  loupe segment scene.png --point 120,80 --not-point 140,95 --out mask.png
  loupe chat
  loupe doctor

`loupe COMMAND --help` says more about each.""",
    "ask": """Each --point (with the --not-points after it), --box or --mask is one region; in the
order given they are region 1, region 2, ... Coordinates are pixels of the picture as a viewer
shows it.

examples:
  loupe ask scene.png "how many red things are there?"
  loupe ask scene.png "what is this?" --point 120,80 --not-point 140,95
  loupe ask scene.png "what is region 2 next to?" --box 10,20,90,110 --mask part.png
  loupe ask --batch questions.jsonl > answers.jsonl

a line of questions.jsonl (files are looked up beside it, then in the current folder):
  {"id": 7, "image": "scene.png", "question": "what is it?", "regions": [{"points": [[9, 8, 1]]}]}
a region is {"points": [[x, y, 1 or 0], ...]}, {"box": [...]} or {"mask": "file.png"}.""",
    "caption": """examples:
  loupe caption scene.png
  loupe caption photo.jpg --model FOLDER --json""",
    "segment": """With several regions, --out mask.png becomes mask-1.png, mask-2.png, ...

examples:
  loupe segment scene.png --point 120,80 --out mask.png
  loupe segment scene.png --box 10,20,90,110 --not-point 50,60 --out mask.png --overlay seen.png""",
    "chat": """examples:
  loupe chat
  loupe chat --model FOLDER --port 8000
  loupe chat --host 0.0.0.0 --auth NAME:PASSWORD""",
    "doctor": """examples:
  loupe doctor
  loupe doctor --json""",
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """argparse, with a wrong call answered in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def numbers(count: int, text: str) -> tuple[float, ...]:
    """ "X,Y" -> floats, exactly `count` of them."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count or not all(abs(value) < 1e9 for value in values):
        form = "X,Y" if count == 2 else "X0,Y0,X1,Y1"
        raise argparse.ArgumentTypeError(f"{text!r} is not {form} in pixels")
    return values


def corner(text: str) -> tuple[float, ...]:
    return numbers(2, text)


def corners(text: str) -> tuple[float, ...]:
    return numbers(4, text)


class AddRegion(argparse.Action):
    """Appends to `namespace.regions`, in the form of a batch line; --not-point to the last one."""

    def __call__(self, parser, namespace, values, option_string=None):
        regions = list(namespace.regions)
        if option_string == "--point":
            regions.append({"points": [(*values, 1)]})
        elif option_string == "--box":
            regions.append({"box": values})
        elif option_string == "--mask":
            regions.append({"mask": values})
        elif not regions or "mask" in regions[-1]:
            parser.error("--not-point excludes from the --point or --box before it: give one first")
        else:
            last = regions[-1]
            regions[-1] = {**last, "points": [*last.get("points", ()), (*values, 0)]}
        namespace.regions = regions


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="loupe",
        description="Point at things in a picture and ask about them.",
        epilog=EXAMPLES["loupe"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Any, says: str, image: bool = False) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=says, description=says[0].upper() + says[1:] + ".",
            epilog=EXAMPLES.get(name), formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        made.set_defaults(run=run, regions=[])
        if image:
            made.add_argument("image", metavar="IMAGE", help="a picture file")
        return made

    ask = command("ask", run_ask, "ask about a picture, or about regions of it")
    ask.add_argument("image", metavar="IMAGE", nargs="?", help="a picture file")
    ask.add_argument("question", metavar="QUESTION", nargs="?")
    ask.add_argument("--batch", metavar="FILE", help='questions as JSON lines; "-" reads them from'
                     " standard input")  # fmt: skip
    regions_of(ask)
    models_of(ask)
    decoding_of(ask)
    ask.add_argument("--json", action="store_true", help="answer as one JSON object")

    caption = command("caption", run_caption, "describe a picture", image=True)
    models_of(caption)
    decoding_of(caption)
    caption.add_argument("--json", action="store_true", help="answer as one JSON object")

    segment = command("segment", run_segment, "cut regions out of a picture", image=True)
    regions_of(segment, masks=False)
    segment.add_argument("--out", metavar="FILE", required=True, help="the region mask, a PNG")
    segment.add_argument("--overlay", metavar="FILE", help="the picture with its regions numbered")
    models_of(segment)
    segment.add_argument("--json", action="store_true", help="report as one JSON object")

    chat = command("chat", run_chat, "open the chat in a browser")
    models_of(chat)
    decoding_of(chat)
    chat.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    chat.add_argument("--port", type=int, default=7860, help="port to listen on (%(default)s)")
    chat.add_argument("--auth", metavar="NAME:PASSWORD", help="ask visitors for these")
    chat.add_argument("--open", action="store_true", help="open a browser window")

    doctor = command("doctor", run_doctor, "check what Loupe needs on this machine")
    doctor.add_argument("--json", action="store_true", help="report as one JSON object")

    commands.add_parser("train", help="train: see loupe train --help", add_help=False)
    return top


def regions_of(command: argparse.ArgumentParser, masks: bool = True) -> None:
    group = command.add_argument_group("regions, in order")
    group.add_argument("--point", metavar="X,Y", type=corner, action=AddRegion, dest="regions",
                       help="a region: the thing at this pixel")  # fmt: skip
    group.add_argument("--not-point", metavar="X,Y", type=corner, action=AddRegion, dest="regions",
                       help="... but not what is at this pixel")  # fmt: skip
    group.add_argument("--box", metavar="X0,Y0,X1,Y1", type=corners, action=AddRegion,
                       dest="regions", help="a region: the thing inside this box")  # fmt: skip
    if masks:
        group.add_argument("--mask", metavar="FILE", action=AddRegion, dest="regions",
                           help="a region: what is bright in this picture")  # fmt: skip


def models_of(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("model")
    group.add_argument("--model", metavar="M", default="embedded", help="a checkpoint's folder, or"
                       " the folder or hub id of a published BLIP-2 or InstructBLIP (%(default)s:"
                       " knows painted scenes, needs no download)")  # fmt: skip
    group.add_argument("--vision", metavar="V", help="for a LAVIS .pth: its vision encoder's folder"
                       " or hub id")  # fmt: skip
    group.add_argument("--language", metavar="L", help="... and its language model's")
    group.add_argument("--segmenter", metavar="S", help="another segmenter's folder or hub id")
    group.add_argument("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    group.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], default="fp32",
                       help="of the frozen parts (%(default)s)")  # fmt: skip


def decoding_of(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("how answers are written")
    group.add_argument("--preset", choices=["caption", "vqa", "chat"], help="BLIP-2's settings for"
                       " captions or questions, or greedy (default: the model's own)")  # fmt: skip
    group.add_argument("--max-new-tokens", metavar="N", type=int, help="most tokens of an answer")
    group.add_argument("--beams", metavar="N", type=int, help="1 is greedy")
    group.add_argument("--temperature", metavar="T", type=float, help="0 is greedy")


def assistant_of(args: argparse.Namespace) -> Any:
    import torch

    from adapters.build import build

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[args.dtype]
    assistant = build(
        args.model, args.segmenter, args.device, dtype, vision=args.vision, language=args.language
    )
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


def parse(words: list[str]) -> argparse.Namespace:
    """The command line; IMAGE and QUESTION may stand anywhere among the options."""
    for place in range(len(words) - 1, 0, -1):  # "--point -3,5": not an option of that name
        option, value = words[place - 1 : place + 1]
        if option in ("--point", "--not-point", "--box") and re.match(r"-[\d.]", value):
            words[place - 1 : place + 1] = [f"{option}={value}"]
    top = parser()
    args, left = top.parse_known_args(words)
    for name in ("image", "question"):  # argparse fills these only where they stand together
        if left and not left[0].startswith("-") and getattr(args, name, "") is None:
            setattr(args, name, left.pop(0))
    if left:
        top.error(f"unknown: {' '.join(left)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 2 with one line on standard error for what the user can put right."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = None if words[:1] == ["train"] else parse(words)
    from qformer.contracts import LoupeError

    try:
        return run_train(words[1:]) if args is None else args.run(args)
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
