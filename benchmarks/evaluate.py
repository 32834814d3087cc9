"""How much faster many questions at once are than `ask` in a loop, and what `loupe eval` measures.

python -m benchmarks.evaluate                     batched against the plain loop, same answers
python -m benchmarks.evaluate --table ../shared/data --limit 300     docs/evaluation.md's table
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from adapters.build import build
from benchmarks.measure import compare
from qformer import together
from qformer.assistant import Assistant
from qformer.contracts import LoupeError
from qformer.together import Question
from qformer.view import View
from train.eval.cli import main as evaluate
from train.eval.run import BATCH, batches
from train.scenes.dialogue import painted_scene

ASKED = ("what is this?", "describe this", "is this a star?", "where is this?")
TABLE = (  # task, data below the folder
    ("shapes", "shapes/val.jsonl"),
    ("easy-vqa", "easyvqa"),
    ("shapeworld", "shapeworld"),
    ("nlvr", "nlvr"),
    *(
        (task, f"{photos}{data}")
        for task, data in (
            ("captions", ""),
            ("aokvqa", "/tasks/vqa.jsonl"),
            ("aokvqa-choice", "/tasks/vqa.jsonl"),
            ("okvqa", "/tasks/vqa.jsonl"),
            ("pope", "/tasks/pope.jsonl"),
            ("vsr", "/tasks/vsr.jsonl"),
            ("sugarcrepe", "/tasks/itm_pairs.jsonl"),
            ("valse", "/tasks/itm_pairs.jsonl"),
            ("coco-what", ""),
            ("region-pope", ""),
            ("leakage", ""),
            ("refer", "/tasks/refer.jsonl"),
        )
        for photos in ("coco_by", "coco_nc")
    ),
)
LEAST = 10  # cases that make a row


def questions(pictures: int) -> list[Question]:
    """Four questions about a region, one about the picture and a caption, of each painting."""
    asked: list[Question] = []
    for number in range(pictures):
        _, image, masks = painted_scene(np.random.default_rng((3, number)))
        picture, region_mask = torch.from_numpy(image), torch.from_numpy(masks[0])
        asked += [Question(picture, text, (region_mask,)) for text in ASKED if region_mask.any()]
        asked += [Question(picture, "how many things are there?"), Question(picture, "")]
    return asked


def one_by_one(assistant: Assistant, asked: list[Question], keep: bool = True) -> list[str]:
    """The plain loop. keep: a picture is encoded once for all that is asked of it."""
    views: dict[int, View] = {}
    answers = []
    for question in asked:
        key = id(question.image)
        if not keep or key not in views:
            views[key] = assistant.encode(question.image)
        view = views[key]
        regions = [view.region(area, "region 1") for area in question.region_masks]
        answers.append(view.ask(question.text, regions) if question.text else view.caption())
    return answers


def at_once(assistant: Assistant, asked: list[Question], batch: int) -> list[str]:
    answers: list[str | LoupeError] = []
    for part in batches(asked, batch, lambda question: id(question.image)):
        answers += together.answers(assistant, part)
    return [str(answer) for answer in answers]


def table(folder: Path, out: Path, limit: int, only: list[str]) -> None:
    """A row of docs/evaluation.md for each task and data that are there."""
    print("| task | data | measure | chance | majority | question only | box crop | blurred crop"
          " | no region | Loupe | cases |")  # fmt: skip
    print(f"|{'---|' * 11}")
    for task, data in TABLE:
        if (only and task not in only) or not (folder / data).exists():
            continue
        place = out / f"{task}-{data.partition('/')[0]}"
        words = ["--data", str(folder / data), "--limit", str(limit), "--out", str(place)]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluate([task, *words])
        scores = json.loads((place / "scores.json").read_text())
        if scores["data"]["cases"] >= LEAST:
            print(row(task, data.partition("/")[0], scores), flush=True)


def row(task: str, data: str, scores: dict) -> str:
    systems = scores["systems"]
    blind, *_ = systems  # the majority, or the whole picture
    measure = next(iter(systems[blind]["scores"]))

    def cell(*names: str) -> str:
        found = next((systems[name]["scores"][measure] for name in names if name in systems), None)
        if found is None:
            return ""
        return f"{found['value']:.3f} ({found['low']:.2f}–{found['high']:.2f})"

    rows = (("question only", "no words"), ("box crop",), ("blurred crop",), ("no region",))
    cells = [cell(blind), *(cell(*(f"loupe: {arm}" for arm in names)) for names in rows)]
    last = cell("loupe: regions", "loupe: picture")
    chance = systems[blind]["scores"][measure].get("chance")
    told, count = "" if chance is None else f"{chance:.3f}", str(scores["data"]["cases"])
    return f"| {' | '.join([f'`{task}`', data, measure, told, *cells, last, count])} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--model", default="paintings", help="a checkpoint folder (%(default)s)")
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", metavar="FOLDER", type=Path, help="measure every task instead")
    parser.add_argument("--only", metavar="TASK", nargs="*", default=[], help="of the table")
    parser.add_argument("--limit", type=int, default=300, help="cases of a task (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/eval"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.table:
        table(arguments.table, arguments.out, arguments.limit, arguments.only)
        return
    assistant, asked = build(arguments.model), questions(arguments.pictures)
    plain, batched = one_by_one(assistant, asked), at_once(assistant, asked, arguments.batch)
    different = sum(one != other for one, other in zip(plain, batched, strict=True))
    print(f"{len(asked)} questions about {arguments.pictures} pictures, one by one / at once")
    for keep, name in ((False, "encoding the picture each time"), (True, "encoding it once")):
        loop = partial(one_by_one, assistant, keep=keep)
        print(
            compare(
                name, loop, lambda asked: at_once(assistant, asked, arguments.batch),
                arguments.repeats, prepare=lambda: asked, clock=time.process_time,
            ),
            flush=True,
        )  # fmt: skip
    print(f"    {different} of {len(asked)} answers differ")
    if different:
        sys.exit(1)


if __name__ == "__main__":
    main()
