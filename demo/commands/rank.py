"""`loupe rank`: pictures ordered by how well they fit a text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from demo.arguments import dtype_of
from demo.commands import common

SAYS = "order pictures by how well they fit a text"
EXAMPLES = """Contrast picks the best 128 pictures and matching orders them, as in BLIP-2. Pictures
are read one by one; only those picked are remembered.

examples:
  loupe rank photos/*.jpg --text "a dog on a beach"
  loupe rank photos/*.jpg --text "a dog on a beach" --model FOLDER --top 5 --json
  loupe rank photos/*.jpg --text "a dog on a beach" --model blip2_pretrained.pth \\
      --vision Salesforce/blip2-itm-vit-g --tokenizer bert-base-uncased"""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("images", metavar="IMAGE", nargs="+", help="picture files")
    command.add_argument("--text", metavar="T", required=True, help="what to look for")
    command.add_argument("--top", metavar="N", type=int, default=20, help="how many (%(default)s)")
    command.add_argument("--model", metavar="M", default="Salesforce/blip2-itm-vit-g",
                          help="the folder or hub id of a"
                         " Blip2ForImageTextRetrieval, a LAVIS .pth of stage 1, or a Loupe"
                         " checkpoint with stage 1's heads (%(default)s)")  # fmt: skip
    command.add_argument("--vision", metavar="V", help="for a LAVIS .pth without its vision"
                         " encoder: that one's folder or hub id")  # fmt: skip
    command.add_argument("--tokenizer", metavar="T", help="... and its tokenizer's"
                         " (bert-base-uncased)")  # fmt: skip
    command.add_argument("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    dtype_of(command)
    command.add_argument("--json", action="store_true", help="a JSON object for each picture")


def run(args: argparse.Namespace) -> int:
    from adapters.build import build_ranker
    from adapters.images import load_image
    from qformer.console import progress
    from qformer.contracts import ImageError, LoupeError
    from qformer.retrieval import KEEP

    if args.top < 1:
        raise LoupeError(f"--top {args.top}: show at least 1")
    ranker = build_ranker(
        args.model, args.device, common.dtype_wanted(args), args.vision, args.tokenizer
    )
    ranker.read_text(args.text)  # a mistake shows before any picture is read
    shown: list[str] = []

    def images() -> Iterator[Any]:
        for number, file in enumerate(args.images, 1):
            progress(f"{number} of {len(args.images)}", number, len(args.images))
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
            common.print_json({
                "image": file, "score": round(match.score, 4),
                "itc": round(match.itc, 4), "itm": round(match.itm, 4),
            })  # fmt: skip
        else:
            print(f"{place}. {file}  {match.score:.3f}")
    return 0
