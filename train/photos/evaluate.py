"""How well a model answers about photos that it never saw: one table.

    python -m train.photos.evaluate MODEL --data SOURCE [--quick] [--rows what,colour] [--json FILE]

SOURCE is laid out as `loupe data photos` reads it, with coco_by/ beside coco_nc/. --quick takes
about sixty of each. What a model lacks (a segmenter, stage 1's heads) is said, and its rows left
out. ImageNet's classes are not judged: no photo of them is held back.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from adapters.build import build, build_ranker
from qformer.assistant import Assistant
from qformer.contracts import CheckpointError, LoupeError
from qformer.retrieval import Ranker
from train.photos import pointing, sentences
from train.photos.asking import (
    NO_REGION,
    TRUE_MASK,
    USUAL,
    WRONG_REGION,
    Ask,
    Say,
    ask_all,
    calibration_error,
)
from train.photos.judged import LARGE, Fact, Judged, few, some
from train.photos.regions import SEEN
from train.photos.report import (
    Report,
    Row,
    caption_wording_row,
    mean,
    rows_of,
    table,
    told,
    wording_rows,
)
from train.photos.wordings import TEST

QUICK = 60  # of each row
QUICK_BASELINES = 20
FULL = 800
WORDINGS, QUICK_WORDINGS = 40, 5  # facts of each kind that are asked in six other wordings
RETRIEVED, QUICK_RETRIEVED = 1000, 100
QUICK_FOUND = 8  # regions whose expressions are looked for
OFTEN = 5  # seconds between lines of progress
THING = 0.01  # of the picture: the least that is segmented


class Judge:
    """Asks one model everything. wanted: beginnings of the rows' names; all if none."""

    def __init__(
        self, model: str, folder: Path, quick: bool, wanted: Sequence[str], say: Say
    ) -> None:
        self.judged, self.folder, self.quick = Judged(folder), folder, quick
        self.wanted, self.say, self.report = tuple(wanted), say, Report()
        self.assistant = self._open(lambda: build(model), "no language model: nothing is asked")
        self.ranker = self._open(lambda: build_ranker(model), "no heads of stage 1: no retrieval")
        if self.assistant is not None and self.assistant.segmenter is None:
            self.report.skipped.append("no segmenter: regions are their true masks")
        if self.ranker is not None and self.assistant is not None:
            self.ranker.segmenter = self.assistant.segmenter

    def _open(self, build_it: Any, without: str) -> Any:
        try:
            return build_it()
        except CheckpointError as error:
            self.report.skipped.append(f"{without} ({error})")
            return None

    def wants(self, name: str) -> bool:
        return not self.wanted or name.startswith(self.wanted)

    def run(self) -> Report:
        steps = (self.questions, self.captions, self.retrieval, self.contrast, self.segmenter,
                 self.find)  # fmt: skip
        for step in steps:
            start = time.perf_counter()
            step()
            self.say(f"{step.__name__}: {time.perf_counter() - start:.0f} s", True)
        return self.report

    def add(self, *rows: Row) -> None:
        self.report.rows += rows

    # ---- questions

    def questions(self) -> None:
        facts = self.judged.facts(self.wanted)
        if self.assistant is None or not facts:
            return
        facts = some(facts, QUICK if self.quick else FULL)
        asks = [Ask(fact) for fact in facts] + self.baselines(facts) + self.other_wordings(facts)
        found = ask_all(self.assistant, asks, self.folder, self.say)
        self.report.answers = [told(one) for one in found]
        for name in dict.fromkeys(fact.row for fact in facts):
            self.add(*rows_of(name, [one for one in found if one.ask.fact.row == name]))
        self.add(*wording_rows(found))
        usual = [one for one in found if one.ask.way == USUAL and not one.ask.wording]
        error = calibration_error(usual)
        self.add(Row("calibration: expected error, all questions", len(usual), error))

    def baselines(self, facts: Sequence[Fact]) -> list[Ask]:
        """What the region is worth: the same questions without it, and about another thing."""
        asks = []
        for name in dict.fromkeys(fact.row for fact in facts if fact.clicked):
            ones = [fact for fact in facts if fact.row == name]
            ones = few(ones, QUICK_BASELINES if self.quick else 0)
            asks += [Ask(fact, way) for fact in ones for way in (TRUE_MASK, NO_REGION)]
            asks += [Ask(fact, WRONG_REGION) for fact in ones if fact.wrong]
        return asks

    def other_wordings(self, facts: Sequence[Fact]) -> list[Ask]:
        asks = []
        for kind, wordings in TEST.items():
            ones = [fact for fact in facts if fact.kind == kind and not fact.question]
            ones = few(ones, QUICK_WORDINGS if self.quick else WORDINGS)
            asks += [Ask(fact, USUAL, wording) for fact in ones for wording in wordings]
        return asks

    # ---- whole photos

    def captions(self) -> None:
        if self.assistant is None or not self.wants("captions"):
            return
        asked = sentences.cases(self.judged.dev, self.folder)
        asked = asked[: QUICK if self.quick else len(asked)]
        usual = sentences.caption_all(self.assistant, asked, [""], self.say)[""]
        few_asked = asked[: QUICK_WORDINGS if self.quick else WORDINGS]
        asked_so = sentences.caption_all(self.assistant, few_asked, TEST["describe"], self.say)
        measures = sentences.caption_measures(asked, usual)
        for name in ("BLEU-4", "CIDEr"):
            self.add(Row(f"captions: {name}", len(asked), measures[name], more=measures))
        if few_asked:
            self.add(caption_wording_row(few_asked, usual, asked_so))

    def retrieval(self) -> None:
        if self.ranker is None or not self.wants("retrieval"):
            return
        asked = sentences.cases(self.judged.dev, self.folder)
        asked = asked[: QUICK_RETRIEVED if self.quick else RETRIEVED]
        found = sentences.recall(self.ranker, asked, self.say)
        for name, kind in (("text to picture", "image"), ("picture to text", "text")):
            figure = found[f"matching: {kind} R@1"]
            more = {key: value for key, value in found.items() if f" {kind} " in key}
            self.add(Row(f"retrieval: {name} R@1", len(asked), figure, 1 / len(asked), more=more))

    # ---- regions without a language model

    def contrast(self) -> None:
        if self.ranker is None or not self.wants("contrast"):
            return
        things = [thing for thing in self.judged.things if thing.share >= SEEN]
        things = few(things, QUICK if self.quick else FULL)
        right = pointing.contrast_names(self.ranker, things, self.folder, self.say)
        large = [hit for hit, thing in zip(right, things, strict=True) if thing.share > LARGE]
        self.add(Row("contrast: COCO's 80 names, true masks", len(right), mean(right)))
        self.add(Row("contrast: COCO's, over 2 % of the picture", len(large), mean(large)))

    def segmenter(self) -> None:
        if self.assistant is None or self.assistant.segmenter is None:
            return
        if not self.wants("segmenter"):
            return
        things = [thing for thing in self.judged.things if thing.share > THING]
        things = few(things, QUICK if self.quick else 0)
        found = pointing.segment_all(self.assistant, things, self.folder, self.say)
        for name, overlaps in found.items():
            self.add(Row(f"segmenter: {name}", len(overlaps), mean(overlaps)))

    def find(self) -> None:
        viewer: Assistant | Ranker | None = self.assistant if self.ranker is None else self.ranker
        if viewer is None or viewer.segmenter is None or not self.wants("find"):
            return
        referred = self.judged.referred[: QUICK_FOUND if self.quick else None]
        found = pointing.find_all(viewer, referred, self.folder, self.say)
        more = {"within reach": mean([reach for _, reach in found])}
        hits = [hit for hit, _ in found]
        self.add(Row("find: RefCOCO's expressions", len(found), mean(hits), more=more))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.photos.evaluate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="as for loupe ask, or a stage-1 folder")
    parser.add_argument("--data", metavar="SOURCE", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="about sixty of each")
    parser.add_argument("--rows", metavar="A,B", default="", help="rows that begin so (all)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="figures and every answer")
    arguments = parser.parse_args(argv)
    start = shown = time.perf_counter()

    def say(line: str, always: bool = False) -> None:
        nonlocal shown
        if always or time.perf_counter() - shown > OFTEN:
            shown = time.perf_counter()
            print(f"[{shown - start:5.0f} s] {line}", file=sys.stderr, flush=True)

    wanted = [name.strip() for name in arguments.rows.split(",") if name.strip()]
    with torch.no_grad():
        judge = Judge(arguments.model, arguments.data, arguments.quick, wanted, say)
        report = judge.run()
    print(table(report))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(asdict(report), ensure_ascii=False, indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LoupeError as problem:
        print(f"loupe: {problem}", file=sys.stderr)
        sys.exit(2)
