"""What `loupe eval` does once its words are understood."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adapters.defaults import default_model
from adapters.memory import DTYPES
from adapters.peers import open_peer
from adapters.peers.sentences import SentenceEncoder
from qformer.contracts import LoupeError
from train.data.source import DataConfig, read_lines
from train.eval import console, retrieval, scores
from train.eval.book import (
    FORMAT,
    PREDICTIONS,
    Book,
    Kept,
    open_book,
    read_book,
    refuse_other,
)
from train.eval.case import Case
from train.eval.models import open_model, provenance
from train.eval.page import page
from train.eval.results import read_results
from train.eval.run import Asked, Cases, Run, list_cases, read_cases
from train.eval.task import Record, Task
from train.eval.tasks import TASKS


def asked_of(args: argparse.Namespace) -> Asked:
    task, split = TASKS[args.task], args.split
    format = args.format or task.format
    if args.format is None and task.asked and is_plain_form(Path(args.data)):
        format, split = "asked", split or task.asked
    elif args.format is None:
        split = split or task.split
    data = DataConfig(format, args.data, args.images, args.answers, split)
    return Asked(args.task, data, args.limit, args.shard)


def is_plain_form(path: Path) -> bool:
    """Whether a file is written as `benchmarks.read_asked` says."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    first = next((line for _, line in read_lines(path)), None)
    return first is not None and {"image", "dataset"} <= first.keys()


def models_of(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The models that the options name, and what identifies each."""
    models: dict[str, Any] = {}
    about: dict[str, Any] = {}
    preset, dtype = TASKS[args.task].preset, DTYPES[args.dtype]
    if not args.no_model:
        source, why = (args.model, "") if args.model else default_model()
        if why:
            print(f"loupe: note: {why}", file=sys.stderr)
        model = open_model(
            source, "loupe", args.segmenter, args.device, dtype, args.preset, args.vision,
            args.language, args.quantize,
        )  # fmt: skip
        models["loupe"] = model
        bits = {"quantize": args.quantize} if args.quantize else {}
        told = model.about(preset)
        about["loupe"] = {**provenance(source), "dtype": args.dtype, **bits, **told}
    for named in args.peer:
        kind, _, source = named.partition("=")
        if not source:
            raise LoupeError(f"--peer {named}: give KIND=WHERE, for example clip=FOLDER")
        name = kind if kind not in models else f"{kind} {len(models)}"
        models[name] = open_peer(kind, source, name, args.device, dtype)
        told = models[name].about(args.preset or preset)
        about[name] = {"kind": kind, **provenance(source), "dtype": args.dtype, **told}
    if not models:
        raise LoupeError("there is no model to ask: leave out --no-model, or give a --peer")
    return models, about


def evaluate(args: argparse.Namespace) -> int:
    asked, out = asked_of(args), args.out or Path("runs/eval") / args.task
    start = time.perf_counter()
    judge = Judge.of(args, asked.definition)
    models, about = models_of(args)
    if asked.definition.retrieval:
        result = retrieval.evaluate(asked, models, about, out, console.progress, args.batch)
        console.print_scores(result, args.json)
        return 0
    chosen = [arm.strip() for arm in args.arms.split(",")] if args.arms else []
    run = Run(asked, models, out, about, chosen, args.batch, console.progress)
    records = run.answer()
    seconds = time.perf_counter() - start
    result = finish(asked, run.cases, records, about, out, seconds, judge)
    console.print_scores(result, args.json)
    return 0


@dataclass(frozen=True)
class Judge:
    """Who says how near a name comes in meaning to the right one, and what identifies it."""

    nearest: scores.Similarity | None = None
    about: dict[str, Any] | None = None

    @classmethod
    def of(cls, args: argparse.Namespace, task: Task) -> Judge:
        """Opened before anything is asked. Raises LoupeError where it would have nothing to say."""
        source = args.sentence_encoder
        if not source:
            return cls()
        if not task.similar:
            names = ", ".join(name for name, one in TASKS.items() if one.similar)
            raise LoupeError(
                f"--sentence-encoder compares names of things: leave it out, or ask {names}"
            )
        return cls(SentenceEncoder.open(source).nearest, provenance(source))


def finish(
    asked: Asked,
    cases: Cases,
    records: Sequence[Record],
    about: dict[str, Any],
    out: Path,
    seconds: float,
    judge: Judge,
) -> dict[str, Any]:
    """scores.json and page.html of a run's records."""
    task = asked.definition
    systems = scores.systems_of(task, cases.all, records, judge.nearest)
    left = scores.left_out(records)
    for reason, one in cases.left_out.items():
        print(f"loupe: note: {one['cases']} left out: {reason}", file=sys.stderr)
    for reason, ids in left.items():
        print(f"loupe: note: {len(ids)} left out: {reason} ({ids[0]})", file=sys.stderr)
    result = {
        "task": asked.task, "says": task.says, "rule": task.rule,
        "data": {
            **asdict(asked.data), "sha256": cases.sha256, "cases": len(systems[0].cases),
            "limit": asked.limit, "shard": "{}/{}".format(*asked.shard),
            "left_out": {
                **cases.left_out,
                **{why: {"cases": len(ids), "examples": ids[:3]} for why, ids in left.items()},
            },
        },
        "models": about,
        "systems": scores.scores(task, systems),
        "machine": scores.machine(),
        "seconds": round(seconds, 2),
    }  # fmt: skip
    if judge.about:
        result["sentence_encoder"] = judge.about
    scores.save_json(result, out / "scores.json")
    (out / "page.html").write_text(page(task, result, systems), encoding="utf-8")
    print(f"loupe: wrote {out}/scores.json and {out}/page.html", file=sys.stderr)
    return result


def merge(args: argparse.Namespace) -> int:
    """Shards of one run become a run; the data are not needed."""
    if args.out is None:
        raise LoupeError("say where the whole goes: --out")
    parts = [(Path(folder) / PREDICTIONS, open_book(folder)) for folder in args.merge]
    first = parts[0][1].header
    no_retrieval(first["task"], "--merge")
    of = first["shard"][1]
    for file, part in parts:
        if part.header["shard"][1] != of:
            raise LoupeError(f"{file} is one of {part.header['shard'][1]} shards, others of {of}")
        refuse_other({**part.header, "shard": None}, {**first, "shard": None}, file,
                     f"shards are of one run, as {parts[0][0]} is")  # fmt: skip
    missing = set(range(1, of + 1)) - {part.header["shard"][0] for _, part in parts}
    if missing:
        names = ", ".join(f"{number}/{of}" for number in sorted(missing))
        raise LoupeError(f"the run is not whole, these shards are missing: {names}")
    header = {**first, "shard": [1, 1]}
    places = {place: case for _, part in parts for place, case in part.cases}
    cases = sorted(places.items())
    book = Book(args.out / PREDICTIONS, header, cases)
    book.write(r for _, part in parts for r in part.records
               if (r["id"], r["system"]) not in book.done)  # fmt: skip
    seconds = sum(record.get("seconds", 0.0) for record in book.records)
    asked = asked_before(header)
    whole = Cases(with_pictures(asked, [case for _, case in cases]), header["left_out"],
                  header["data"])  # fmt: skip
    judge = Judge.of(args, asked.definition)
    result = finish(asked, whole, book.records, header["models"], args.out, seconds, judge)
    console.print_scores(result, args.json)
    return 0


def asked_before(header: dict[str, Any]) -> Asked:
    """What a predictions.jsonl answers."""
    data = DataConfig(**header["source"])
    return Asked(header["task"], data, header["limit"], tuple(header["shard"]))


def with_pictures(asked: Asked, kept: list[Case]) -> list[Case]:
    """The cases with pictures and regions to show, where the data are still there."""
    try:
        there = {case.id: case for case in list_cases(asked)[0]}
    except LoupeError:
        return kept
    return [
        replace(case, picture=there[case.id].picture, areas=there[case.id].areas)
        if case.id in there and there[case.id].picture.key == case.picture.key
        else case
        for case in kept
    ]


def score_file(args: argparse.Namespace) -> int:
    """Answers made elsewhere, scored as a run's are."""
    asked, file = asked_of(args), Path(args.predictions)
    if not file.is_file():
        raise LoupeError(f"there is no file {file}: check --predictions")
    no_retrieval(asked.task, "--predictions")
    cases = read_cases(asked)
    kept = read_book(file)
    header, records = kept.header, kept.records
    if header:
        own = {"task": asked.task, "data": cases.sha256, "limit": asked.limit,
               "models": header["models"], "shard": header["shard"]}  # fmt: skip
        refuse_other(header, own, file, "give the task, --data and --limit that it answers")
        if args.model is not None:
            mine, theirs = provenance(args.model), header["models"].get("loupe", {})
            if any(theirs.get(key) != mine.get(key) for key in ("sha256", "revision")):
                raise LoupeError(
                    f"{file} holds answers of {theirs.get('model')}, not of {args.model}: leave"
                    " out --model, or evaluate that model"
                )
    else:
        if "find" in asked.definition.ways:
            raise LoupeError(
                f"{asked.task} is scored by areas, and {file} has words: give the"
                f" {PREDICTIONS} of a run"
            )
        records = read_results(file, asked.definition, cases.all)
        header = {"format": FORMAT, "models": {file.stem: {"file": str(file)}}}
    out = args.out or file.parent / f"{file.stem}-scores"
    seconds = sum(record.get("seconds", 0.0) for record in records)
    judge = Judge.of(args, asked.definition)
    result = finish(asked, cases, records, header["models"], out, seconds, judge)
    console.print_scores(result, args.json)
    return 0


def compare(args: argparse.Namespace) -> int:
    """A paired test of two systems over the same cases; the data are not needed."""
    chosen, headers, told = [], [], []
    for named in args.compare:
        folder, _, name = named.partition("#")
        kept = open_book(folder)
        header = kept.header
        headers.append(header)
        if header["task"] != headers[0]["task"] or header["data"] != headers[0]["data"]:
            raise LoupeError(f"{folder} answers other questions than {args.compare[0]}")
        systems = systems_kept(kept)
        name = name or [*systems][-1]
        if name not in systems:
            raise LoupeError(f"{folder} has no {name!r}: it has {', '.join(systems)}")
        chosen.append(systems[name])
        told.append(f"{name} ({folder})")
    comparison = retrieval.comparison if is_retrieval(headers[0]) else scores.comparison
    tests = comparison(*chosen)
    if args.json:
        print(json.dumps(tests))
        return 0
    print(f"{told[0]} less {told[1]}, 95 % interval of the difference, paired p")
    for name, test in tests.items():
        print(
            f"{name:22} {test['first']:.3f} - {test['second']:.3f} = {test['difference']:+.3f}"
            f" ({test['low']:+.3f} to {test['high']:+.3f})  p = {test['p']:.3f}"
            f"  {test['items']} cases"
        )
    return 0


def systems_kept(kept: Kept) -> dict[str, Any]:
    """The systems of a run by name, from its book alone."""
    if is_retrieval(kept.header):
        return retrieval.kept_recalls(kept)
    cases = [case for _, case in sorted(kept.cases)]
    systems = scores.systems_of(TASKS[kept.header["task"]], cases, kept.records)
    return {system.name: system for system in systems}


def no_retrieval(task: str, what: str) -> None:
    """Raises LoupeError for what a retrieval task has not."""
    if TASKS[task].retrieval:
        raise LoupeError(f"{task} compares all with all: it has no {what}")


def is_retrieval(header: dict[str, Any]) -> bool:
    return TASKS[header["task"]].retrieval
