"""`loupe find`: regions of a picture by words."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demo.arguments import models_of
from demo.commands import common

SAYS = "find what fits some words, as regions of a picture"
EXAMPLES = """The segmenter proposes areas. A Blip2ForImageTextRetrieval compares each with the
words. A model that answers tells how well they name it; a score below 0 then says that they fit
the picture as a whole better.

examples:
  loupe find scene.png "the red star"
  loupe find scene.png "the red star" --overlay found.png --top 1
  loupe find photo.jpg "the red mug" --model Salesforce/blip2-itm-vit-g \\
      --segmenter facebook/sam-vit-base --json"""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE", help="a picture file")
    command.add_argument("text", metavar="TEXT", help="what to look for")
    command.add_argument("--top", metavar="N", type=int, default=5, help="how many (%(default)s)")
    command.add_argument("--overlay", metavar="FILE", help="the picture with the regions numbered")
    command.add_argument("--points-per-side", metavar="N", type=int, help="how closely the"
                         " segmenter looks (16 on a CPU, 32 on a GPU)")  # fmt: skip
    models_of(command)
    command.add_argument("--json", action="store_true", help="report as one JSON object")


def run(args: argparse.Namespace) -> int:
    from adapters import draw
    from adapters.build import build_ranker, compares, find, open_segmenter
    from adapters.images import load_image
    from adapters.lavis import SUFFIXES
    from adapters.published import RETRIEVAL
    from qformer import finding
    from qformer.console import progress
    from qformer.contracts import LoupeError, QuestionError
    from qformer.proposals import Everything

    if args.top < 1:
        raise LoupeError(f"--top {args.top}: show at least 1")
    if not args.text.strip():
        raise QuestionError("the text is empty: say what to look for")
    image = load_image(args.image)
    model = common.model_of(args)
    lone = model.endswith(SUFFIXES) and args.language is None
    settings = {} if model.endswith(SUFFIXES) else find(model).settings()
    ranker = None
    if lone or compares(settings) or settings.get("architectures") == [RETRIEVAL]:
        ranker = build_ranker(
            model, args.device, common.dtype_wanted(args), args.vision, args.tokenizer
        )
        if args.segmenter is not None:
            ranker.segmenter = open_segmenter(args.segmenter).to(args.device)
        view = ranker.encode(image)
    else:
        view = common.assistant_of(args).encode(image)
        common.warn_unfamiliar(view, model)

    def told(done: int, total: int) -> None:
        progress(f"looking: {done} of {total} clicks", done, total)

    looking = Everything(args.points_per_side, **finding.GENEROUS)
    found = finding.find(view, args.text, ranker, looking, told)[: args.top]
    if args.overlay:
        masks = [(n, one.proposal.region_mask.numpy()) for n, one in enumerate(found, 1)]
        common.save(draw.overlay(image.numpy(), masks), Path(args.overlay))
    if args.json:
        common.print_json({
            "image": args.image, "text": args.text, "regions": [
                {"box": list(one.proposal.box), "area": one.proposal.area,
                 "score": round(one.score, 4), "itc": common.rounded(one.itc),
                 "itm": common.rounded(one.itm), "quality": round(one.proposal.score, 4)}
                for one in found
            ],
        })  # fmt: skip
        return 0
    if not found:
        print("nothing found: the segmenter proposed no area", file=sys.stderr)
    for place, one in enumerate(found, 1):
        box = ",".join(map(str, one.proposal.box))
        print(f"{place}. box {box}, {one.proposal.area} pixels, score {one.score:.3f}")
    return 0
