"""`loupe caption`: a description of a picture."""

from __future__ import annotations

import argparse
import time

from demo.arguments import decoding_of, models_of
from demo.commands import common

SAYS = "describe a picture"
EXAMPLES = """examples:
  loupe caption scene.png
  loupe caption photo.jpg --model FOLDER --json"""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE", help="a picture file")
    models_of(command)
    decoding_of(command)
    command.add_argument("--json", action="store_true", help="answer as one JSON object")


def run(args: argparse.Namespace) -> int:
    from adapters.images import load_image

    image = load_image(args.image)
    view = common.assistant_of(args).encode(image)
    familiar = common.warn_unfamiliar(view)
    start = time.perf_counter()
    caption = view.caption()
    seconds = round(time.perf_counter() - start, 4)
    if args.json:
        common.print_json({
            "image": args.image, "caption": caption, "familiar": familiar, "seconds": seconds,
            **common.settings_used(view.assistant),
        })  # fmt: skip
    else:
        print(caption)
    return 0
