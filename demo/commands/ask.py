"""`loupe ask`: questions about a picture and its regions."""

from __future__ import annotations

import argparse
import time

from demo.arguments import decoding_of, models_of, regions_of
from demo.commands import common

SAYS = "ask about a picture, or about regions of it"
EXAMPLES = """Each --point (with the --not-points after it), --box or --mask is one region; in the
order given they are region 1, region 2, ... Coordinates are pixels of the picture as a viewer
shows it.

examples:
  loupe ask scene.png "how many red things are there?"
  loupe ask scene.png "what is this?" --point 120,80 --not-point 140,95
  loupe ask scene.png "what is region 2 next to?" --box 10,20,90,110 --mask part.png
  loupe ask --batch questions.jsonl > answers.jsonl

a line of questions.jsonl (files are looked up beside it, then in the current folder):
  {"id": 7, "image": "scene.png", "question": "what is it?", "regions": [{"points": [[9, 8, 1]]}]}
a region is {"points": [[x, y, 1 or 0], ...]}, {"box": [...]} or {"mask": "file.png"}."""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE", nargs="?", help="a picture file")
    command.add_argument("question", metavar="QUESTION", nargs="?")
    command.add_argument("--batch", metavar="FILE", help='questions as JSON lines; "-" reads them'
                             " from standard input")  # fmt: skip
    regions_of(command)
    models_of(command)
    decoding_of(command)
    command.add_argument("--json", action="store_true", help="answer as one JSON object")


def run(args: argparse.Namespace) -> int:
    from adapters.images import load_image
    from demo import batch
    from qformer.contracts import QuestionError

    if args.batch is not None:
        if args.image or args.regions:
            raise QuestionError("--batch brings its own pictures, questions and regions: give none")
        return batch.run(args.batch, lambda: common.assistant_of(args))
    if args.image is None or args.question is None:
        raise QuestionError("give IMAGE and QUESTION, or --batch FILE")
    if not args.question.strip():
        raise QuestionError("the question is empty: type one")
    image = load_image(args.image)
    view = common.assistant_of(args).encode(image)
    regions = [batch.region(view, wanted, n) for n, wanted in enumerate(args.regions, 1)]
    familiar = common.warn_unfamiliar(view, common.model_of(args))
    start = time.perf_counter()
    pieces = view.converse().ask(args.question, regions)
    if not args.json:
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        return 0
    answer = "".join(pieces)
    common.print_json({
        "image": args.image, "question": args.question, "answer": answer,
        "regions": [batch.described(region) for region in regions],
        "familiar": familiar, "seconds": round(time.perf_counter() - start, 4),
        "grounding": round(view.grounding(args.question, regions, answer), 3) if regions else None,
        **common.settings_used(view.assistant),
    })  # fmt: skip
    return 0
