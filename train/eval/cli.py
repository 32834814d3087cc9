"""`loupe eval`: one command for every task."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qformer.console import Parser
from qformer.contracts import LoupeError, hint

EXAMPLES = """examples:
  loupe eval --list
  loupe eval shapes --data shapes/val.jsonl
  loupe eval vqav2 --model FOLDER --data v2_OpenEnded_mscoco_val2014_questions.json \\
      --answers v2_mscoco_val2014_annotations.json --images val2014 --limit 1000
  loupe eval coco-what --data coco --peer clip=FOLDER --peer server=http://localhost:8000/v1
  loupe eval coco --data dataset_coco.json --images coco --shard 1/4 --out runs/eval/part1
  loupe eval --merge runs/eval/part1 runs/eval/part2 --out runs/eval/all
  loupe eval vqav2 --data Q.json --answers A.json --predictions answers.jsonl
  loupe eval --compare runs/eval/first runs/eval/second
  loupe eval --compare "runs/eval/coco-what#loupe: regions" "runs/eval/coco-what#loupe: box crop"

Writes predictions.jsonl, scores.json and page.html to --out. A run that was killed goes on where it
stopped when the same command is given again. docs/evaluation.md says what each task measures.
"""


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="loupe eval", description="Measure any Loupe model, its baselines and its peers.",
        epilog=EXAMPLES,
    )  # fmt: skip
    add = top.add_argument
    add("task", metavar="TASK", nargs="?", help="what to measure: see --list")
    add("--list", action="store_true", help="name the tasks and stop")
    data = top.add_argument_group("data, in the official files")
    add = data.add_argument
    add("--data", metavar="D", help="the task's file, or the folder of its files")
    add("--images", metavar="I", help="folder or zip of the pictures, where not beside the data")
    add("--answers", metavar="A", help="the second file of tasks that have two (VQAv2, RefCOCO)")
    add("--split", metavar="S", help="the part to read, where the files hold several")
    add("--format", metavar="F", help="another reader than the task's own")
    add("--limit", metavar="N", type=int, default=0, help="most cases, spread over the data")
    add("--shard", metavar="i/N", type=shard, default=(1, 1), help="the i-th of N equal parts")
    models = top.add_argument_group("models")
    add = models.add_argument
    add("--model", metavar="M", default=None, help="as for loupe ask (embedded)")
    add("--peer", metavar="KIND=WHERE", action="append", default=[], help="another model beside"
        " it: see loupe peers; may be repeated")  # fmt: skip
    add("--no-model", action="store_true", help="peers and baselines alone")
    add("--arms", metavar="A,B", help="only these of: question only, no region, box crop, blurred"
        " crop, regions, no words, picture (all that fit)")  # fmt: skip
    add("--preset", choices=["caption", "vqa", "chat"], help="how answers are written (published"
        " models: as BLIP-2 does for the task; others: their own way)")  # fmt: skip
    add("--segmenter", metavar="S", help="another segmenter's folder or hub id")
    add("--vision", metavar="V", help="for a LAVIS .pth: its vision encoder")
    add("--language", metavar="L", help="... and its language model")
    add("--sentence-encoder", metavar="S", help="a folder that compares sentences: adds the"
        " similarity of names")  # fmt: skip
    add("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    add("--dtype", choices=["fp32", "bf16", "fp16"], default="fp32", help="(%(default)s)")
    add("--quantize", choices=["int8", "nf4"], help="the language model's linear layers, to 8 or 4"
        " bits")  # fmt: skip
    add("--batch", metavar="N", type=int, default=64, help="cases asked at once (%(default)s)")
    out = top.add_argument_group("what comes of it")
    add = out.add_argument
    add("--out", metavar="FOLDER", type=Path, help="(runs/eval/TASK)")
    add("--json", action="store_true", help="print scores.json")
    other = top.add_argument_group("without asking a model")
    add = other.add_argument
    add("--predictions", metavar="FILE", help="score answers made elsewhere: JSON lines, or a list,"
        " of {id, answer}; the official result files too")  # fmt: skip
    add("--merge", metavar="FOLDER", nargs="+", help="put the shards of a run together")
    add("--compare", metavar=("A", "B"), nargs=2, help="a paired test of two runs' last systems, or"
        " of any two: FOLDER#SYSTEM")  # fmt: skip
    return top


def shard(text: str) -> tuple[int, int]:
    """ "2/4" -> (2, 4)."""
    try:
        number, of = (int(part) for part in text.split("/"))
    except ValueError:
        number, of = 0, 0
    if not 1 <= number <= of:
        raise argparse.ArgumentTypeError(f"{text!r} is not i/N with i from 1 to N")
    return number, of


def main(argv: Sequence[str]) -> int:
    """Raises LoupeError for what a user can put right; `loupe` prints it in one line."""
    args = parser().parse_args(argv)
    from train.eval import commands
    from train.eval.tasks import TASKS

    if args.list:
        width = max(map(len, TASKS))
        for name, task in TASKS.items():
            print(f"{name:{width}}  {task.says}")
        return 0
    if args.compare:
        return commands.compare(args)
    if args.merge:
        return commands.merge(args)
    if args.task is None:
        raise LoupeError("name a task (loupe eval --list), or give --compare or --merge")
    if args.task not in TASKS:
        meant = hint(args.task, TASKS, "see loupe eval --list")
        raise LoupeError(f"there is no task {args.task!r}: {meant}")
    if args.data is None:
        raise LoupeError(f"say where the files of {args.task} are: --data")
    if args.limit < 0 or args.batch < 1:
        raise LoupeError("--limit must be 0 (all) or more, and --batch 1 or more")
    if args.predictions:
        return commands.score_file(args)
    return commands.evaluate(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
