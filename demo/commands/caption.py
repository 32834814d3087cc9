"""`loupe caption`: a description of a picture."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from demo.arguments import decoding_of, everything_of, everything_wanted, models_of
from demo.commands import common

SAYS = "describe a picture, or each thing in it"
EXAMPLES = """examples:
  loupe caption scene.png
  loupe caption photo.jpg --model FOLDER --json
  loupe caption scene.png --everything --overlay named.png"""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE", help="a picture file")
    command.add_argument("--overlay", metavar="FILE", help="the picture with the regions of"
                         " --everything numbered")  # fmt: skip
    everything_of(command)
    models_of(command)
    decoding_of(command)
    command.add_argument("--json", action="store_true", help="answer as one JSON object")


def run(args: argparse.Namespace) -> int:
    from adapters.images import load_image

    image = load_image(args.image)
    view = common.assistant_of(args).encode(image)
    familiar = common.warn_unfamiliar(view, common.model_of(args))
    start = time.perf_counter()
    if args.everything:
        return dense(args, view, familiar, start)
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


def dense(args: argparse.Namespace, view: Any, familiar: bool, start: float) -> int:
    """A caption for each thing, of a part and its whole for the better cut: one pass of the
    Q-Former for all, all words written together."""
    from adapters import coco
    from demo import everything, finding
    from qformer.contracts import LoupeError
    from qformer.together import Question, answers

    settings = everything_wanted(args)
    found = finding.distinct(view.everything(settings, everything.Progress()))
    asked = [Question(view.image, "", (one.region_mask,)) for one in found]
    words = answers(view.assistant, asked) if asked else []
    regions = []
    for one, caption in zip(found, words, strict=True):
        said = {"error": str(caption)} if isinstance(caption, LoupeError) else {"caption": caption}
        regions.append({**said, **coco.record(one)})
    if args.overlay:
        common.save(everything.overlay(view.image, found), Path(args.overlay))
    if args.json:
        seconds = round(time.perf_counter() - start, 4)
        common.print_json({
            "image": args.image, "familiar": familiar, "seconds": seconds, "regions": regions,
        })  # fmt: skip
        return 0
    for number, one in enumerate(regions, 1):
        box = ",".join(str(value) for value in one["bbox"])
        print(f"{number}. {one.get('caption') or one['error']}  (at {box}, x y width height)")
    if not regions:
        print("nothing was found: lower --pred-iou-thresh or --stability-score-thresh")
    return 0
