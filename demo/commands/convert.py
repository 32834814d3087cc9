"""`loupe convert`: a model from one form into another."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from demo.commands import common

SAYS = "turn a model into a Loupe checkpoint, a Hugging Face folder or a LAVIS file"
EXAMPLES = """Weights keep their bits. What the new form has no place for is named; for Hugging Face
it is kept beside the model in loupe.safetensors, and found again on the way back.

examples:
  loupe convert blip2_pretrained_flant5xl.pth my-model --to loupe \\
      --vision Salesforce/blip2-flan-t5-xl --language google/flan-t5-xl
  loupe convert my-model exported --to hf
  loupe convert exported blip2.pth --to lavis
  loupe convert blip2_coco.pth retrieval --to hf --tokenizer bert-base-uncased"""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source",
        metavar="SRC",
        help="a LAVIS .pth, a folder or hub id"
        " of a published BLIP-2 or InstructBLIP, or a Loupe checkpoint",
    )
    command.add_argument("target", metavar="DST", help="a new folder, or a new .pth")
    command.add_argument("--to", choices=["loupe", "hf", "lavis"], required=True, help="a Loupe"
                         " checkpoint, a folder for transformers, or a .pth")  # fmt: skip
    group = command.add_argument_group("for a LAVIS .pth: what it does not hold itself")
    group.add_argument("--vision", metavar="V", help="its vision encoder's folder or hub id"
                       " (those tuned on COCO hold it)")  # fmt: skip
    group.add_argument("--language", metavar="L", help="its language model's, for one of stage 2")
    group.add_argument("--tokenizer", metavar="T", help="its Q-Former's (bert-base-uncased), for"
                       " one of stage 1 and for InstructBLIP's")  # fmt: skip
    group.add_argument("--heads", metavar="N", type=int, help="attention heads of the Q-Former, if"
                       " they are not 64 wide")  # fmt: skip
    command.add_argument("--json", action="store_true", help="report as one JSON object")


def run(args: argparse.Namespace) -> int:
    from adapters.convert import convert

    report = convert(
        args.source, Path(args.target), args.to, args.vision, args.language, args.tokenizer,
        args.heads,
    )  # fmt: skip
    tell(report, args.target, args.json)
    return 0


def tell(report: Any, target: str, as_json: bool) -> None:
    """What was written, and every weight that has no place there."""
    if as_json:
        common.print_json({
            "target": target, "form": report.form, "weights": report.weights,
            "beside": report.beside, "homeless": report.homeless, "remarks": report.remarks,
        })  # fmt: skip
        return
    print(f"{target}: {report.form}, {report.weights} weights")
    for names, says in (
        (report.beside, "kept beside it, for it has no place for them"),
        (report.homeless, "left out"),
    ):
        if names:
            print(f"{len(names)} {says}: {', '.join(names)}")
    for remark in report.remarks:
        print(f"note: {remark}", file=sys.stderr)
