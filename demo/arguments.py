"""The words of the `loupe` command: options, help, examples. Imports nothing heavy."""

from __future__ import annotations

import argparse
import re
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
    "rank": """examples:
  loupe rank photos/*.jpg --text "a dog on a beach"
  loupe rank photos/*.jpg --text "a dog on a beach" --model FOLDER --top 5 --json""",
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

    def command(name: str, says: str, image: bool = False) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=says, description=says[0].upper() + says[1:] + ".",
            epilog=EXAMPLES.get(name), formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        made.set_defaults(command=name, regions=[])
        if image:
            made.add_argument("image", metavar="IMAGE", help="a picture file")
        return made

    ask = command("ask", "ask about a picture, or about regions of it")
    ask.add_argument("image", metavar="IMAGE", nargs="?", help="a picture file")
    ask.add_argument("question", metavar="QUESTION", nargs="?")
    ask.add_argument("--batch", metavar="FILE", help='questions as JSON lines; "-" reads them from'
                     " standard input")  # fmt: skip
    regions_of(ask)
    models_of(ask)
    decoding_of(ask)
    ask.add_argument("--json", action="store_true", help="answer as one JSON object")

    caption = command("caption", "describe a picture", image=True)
    models_of(caption)
    decoding_of(caption)
    caption.add_argument("--json", action="store_true", help="answer as one JSON object")

    segment = command("segment", "cut regions out of a picture", image=True)
    regions_of(segment, masks=False)
    segment.add_argument("--out", metavar="FILE", required=True, help="the region mask, a PNG")
    segment.add_argument("--overlay", metavar="FILE", help="the picture with its regions numbered")
    models_of(segment)
    segment.add_argument("--json", action="store_true", help="report as one JSON object")

    rank = command("rank", "order pictures by how well they fit a text")
    rank.add_argument("images", metavar="IMAGE", nargs="+", help="picture files")
    rank.add_argument("--text", metavar="T", required=True, help="what to look for")
    rank.add_argument("--top", metavar="N", type=int, default=20, help="how many (%(default)s)")
    rank.add_argument("--model", metavar="M", default="Salesforce/blip2-itm-vit-g",
                      help="a Blip2ForImageTextRetrieval (%(default)s)")  # fmt: skip
    rank.add_argument("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    dtype_of(rank)
    rank.add_argument("--json", action="store_true", help="a JSON object for each picture")

    chat = command("chat", "open the chat in a browser")
    models_of(chat)
    decoding_of(chat)
    chat.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    chat.add_argument("--port", type=int, default=7860, help="port to listen on (%(default)s)")
    chat.add_argument("--auth", metavar="NAME:PASSWORD", help="ask visitors for these")
    chat.add_argument("--open", action="store_true", help="open a browser window")

    doctor = command("doctor", "check what Loupe needs on this machine")
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
    dtype_of(group)


def dtype_of(group: Any) -> None:
    group.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], default="fp32",
                       help="of the frozen parts (%(default)s)")  # fmt: skip


def decoding_of(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("how answers are written")
    group.add_argument("--preset", choices=["caption", "vqa", "chat"], help="BLIP-2's settings for"
                       " captions or questions, or greedy (default: the model's own)")  # fmt: skip
    group.add_argument("--max-new-tokens", metavar="N", type=int, help="most tokens of an answer")
    group.add_argument("--beams", metavar="N", type=int, help="1 is greedy")
    group.add_argument("--temperature", metavar="T", type=float, help="0 is greedy")


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
