"""`loupe data check`: what a data set holds, what is wrong with it, and what would be learned."""

from __future__ import annotations

import argparse
import html
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qformer.console import Parser, progress
from qformer.contracts import LoupeError
from train.asks import Ask, Wording
from train.data.draw import by_picture
from train.data.readers import READERS, STREAMED, read
from train.data.sample import Picture, Sample, Tally, lines_of
from train.data.source import DataConfig
from train.page import Shown, mark, write_page

EXAMPLES = """examples:
  loupe data check folder mine                        a folder with data.jsonl and images/
  loupe data check coco-captions captions.json --images train2017 --page look.html
  loupe data check vqav2 questions.json --answers annotations.json --images train2014
  loupe data check my.toml --page look.html           all data of a recipe, worded as it says
  loupe data photos --help                            public photo data as training data
  loupe data masks --help                             masks of many forms as one COCO data set

formats: """


def main(argv: Sequence[str]) -> int:
    """Raises LoupeError for files that are missing or of another format."""
    if list(argv[:1]) == ["photos"]:
        from train.photos.prepare import main as photos

        return photos(argv[1:])
    if list(argv[:1]) == ["masks"]:
        from train.data.masks import main as masks

        return masks(argv[1:])
    parser = Parser(
        prog="loupe data", description="Look at data before training on them.",
        epilog=EXAMPLES + ", ".join(READERS),
    )  # fmt: skip
    parser.add_argument("what", choices=["check"], help="read all, count what is bad and why")
    parser.add_argument("format", metavar="FORMAT", help="a format, or a recipe's TOML file")
    parser.add_argument("path", metavar="PATH", nargs="?", help="its file, or folder of files")
    parser.add_argument("--images", metavar="P", help="folder or zip archive of the pictures")
    parser.add_argument("--answers", metavar="FILE", help="the second file of formats with two")
    parser.add_argument("--split", metavar="NAME", help="the part to read")
    parser.add_argument("--open", metavar="N", type=int, default=200,
                        help="pictures to open and check, 0 for all (%(default)s)")  # fmt: skip
    parser.add_argument("--page", metavar="FILE", help="write an HTML page of samples")
    parser.add_argument("--samples", metavar="N", type=int, default=24, help="on the page")
    parser.add_argument("--model", metavar="M", default="paintings",
                        help="whose prompt and tokens the page shows (%(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="the counts as one JSON object")
    arguments = parser.parse_args(argv)
    sources, wording = wanted(arguments, parser)
    tally = Tally()
    found = examine(sources, tally, arguments.open, wording)
    if arguments.json:
        print(json.dumps({**asdict(found), "bad": tally.bad, "reasons": dict(tally.reasons)}))
    else:
        print("\n".join(report(found, tally)))
    if arguments.page:
        samples = page_samples(sources, wording, arguments.samples)
        title = ", ".join(f"{s.format} {s.path}" for s in sources)
        write_page(Path(arguments.page), title, head(found, tally), samples)
        print(arguments.page, file=sys.stderr)
    return 0 if found.samples and not tally.bad else 1


def wanted(arguments: argparse.Namespace, parser: argparse.ArgumentParser):
    """The data sets to look at, and how their texts are worded."""
    if arguments.path is None:
        if not arguments.format.endswith(".toml"):
            parser.error("give a format and a path, or a recipe's TOML file")
        from train.recipe import read_recipe

        recipe = read_recipe(Path(arguments.format))
        return [*recipe.data, *recipe.validate], wording_of(recipe.start.checkpoint, recipe)
    source = DataConfig(
        arguments.format, arguments.path, arguments.images, arguments.answers, arguments.split
    )
    return [source], wording_of(arguments.model)


def wording_of(model: str, recipe: Any = None) -> Wording | None:
    """From a checkpoint's settings alone, no weights; None where there is no language model."""
    from adapters.build import locate
    from adapters.checkpoint import load_config
    from adapters.language import Words
    from adapters.tokenizer import open_tokenizer
    from train.overrides import bridge_of, prompt_of
    from train.parts import planned_parts, start_folder

    if not model or (recipe is not None and recipe.stage == "stage1"):
        return None
    folder = start_folder(model)
    config = load_config(folder)
    prompt, bridge, notes = config.prompt, config.bridge, False
    if recipe is None:
        language, reader = config.language, config.tokenizer
    else:
        folder, parts = Path(), planned_parts(recipe)
        language, reader = parts["language"], parts["tokenizer"]
    if language is None:
        return None
    words = Words(locate(folder, language))
    tokenizer = reader and open_tokenizer(locate(folder, reader), reader.subfolder)
    if recipe is not None:
        prompt, notes = prompt_of(recipe, config, words), recipe.notes is not None
        bridge = bridge_of(recipe, bridge)
        queries = recipe.start.queries or bridge.qformer.num_queries
        bridge = replace(bridge, qformer=replace(bridge.qformer, num_queries=queries))
    return Wording(prompt, bridge, words, tokenizer, notes)


@dataclass
class Found:
    """What a data set holds. noted: questions with notes. opened: pictures that were loaded and
    whose regions were drawn."""

    samples: int = 0
    pictures: int = 0
    captions: int = 0
    questions: int = 0
    noted: int = 0
    dialogues: int = 0
    regions: int = 0
    opened: int = 0
    longest: int = 0  # words of an answer


def examine(
    sources: Sequence[DataConfig], tally: Tally, most: int, wording: Wording | None = None
) -> Found:
    """Read everything; open `most` pictures, spread over all, or all for 0. wording: of a recipe;
    where it learns notes, they must fit."""
    found, shown, drawn = Found(), time.time(), []
    keys: set[str] = set()
    for source in sources:
        samples = []
        for sample in read(source, tally):
            count(found, sample, keys)
            if wording is not None and wording.notes:
                for number, turn in enumerate(sample.turns):
                    with tally.use(sample.id):
                        if turn.notes:
                            wording.ask(sample, number)
            if source.format in STREAMED:  # its picture is here now, and is not kept
                if not most or found.opened < most:
                    found.opened += 1
                    look(sample.picture, [sample], tally)
            else:
                samples.append(sample)
            if time.time() - shown > 2:
                shown = time.time()
                progress(f"{found.samples} samples", found.samples, None)
        drawn += by_picture(iter(samples))
    left = max(0, most - found.opened) if most else len(drawn)
    order = np.random.default_rng(0).permutation(len(drawn))[:left]
    for index in order:
        found.opened += 1
        look(*drawn[index], tally)
    found.pictures = len(keys)
    return found


def count(found: Found, sample: Sample, keys: set[str]) -> None:
    keys.add(sample.picture.key)
    found.samples += 1
    found.dialogues += sample.dialogue
    found.regions += len(sample.areas)
    for turn in sample.turns:
        found.questions += bool(turn.question)
        found.captions += not turn.question
        found.noted += bool(turn.notes)
        found.longest = max(found.longest, *(len(answer.split()) for answer in turn.answers))


def look(picture: Picture, samples: Sequence[Sample], tally: Tally) -> None:
    with tally.use(picture.key):
        size = tuple(picture.load().shape[:2])
        for sample in samples:
            with tally.use(f"{sample.id} ({picture.key})"):
                for area in sample.areas:
                    area.region_mask(size)  # type: ignore[arg-type]


def report(found: Found, tally: Tally) -> list[str]:
    noted = f"; {found.noted} questions have notes" if found.noted else ""
    lines = [
        f"{found.samples} samples of {found.pictures} pictures: {found.captions} captions, "
        f"{found.questions} questions, {found.dialogues} dialogues, {found.regions} regions",
        f"the longest answer has {found.longest} words{noted}; {found.opened} pictures were opened",
        "nothing is bad" if not tally.bad else f"{tally.bad} bad:",
    ]
    return lines + [f"  {line}" for line in lines_of(tally)]


def head(found: Found, tally: Tally) -> str:
    rows = "".join(
        f"<tr><td>{times}</td><td>{html.escape(reason)}</td>"
        f"<td>{html.escape('; '.join(tally.examples[reason]))}</td></tr>"
        for reason, times in tally.reasons.most_common()
    )
    bad = f"<table><tr><th>bad</th><th>why</th><th>where</th></tr>{rows}</table>" if rows else ""
    legend = f"{mark('soft tokens', 'soft')} are read, {mark('these tokens', 'learned')} carry loss"
    return f"<p>{html.escape(report(found, tally)[0])}</p>{bad}<p>{legend}</p>"


def page_samples(
    sources: Sequence[DataConfig], wording: Wording | None, most: int
) -> Iterator[Shown]:
    """Samples spread over every set, as training would word them."""
    for source in sources:
        samples = list(_some(source, max(1, most // len(sources))))
        for sample in samples:
            try:
                yield shown(sample, wording)
            except LoupeError:  # counted by `examine`
                continue


def _some(source: DataConfig, most: int) -> Iterator[Sample]:
    """A few good samples, spread over the set by a reservoir."""
    rng, kept = np.random.default_rng(0), []
    for number, sample in enumerate(read(source)):
        if len(kept) < most:
            kept.append(sample)
        elif (place := int(rng.integers(number + 1))) < most:
            kept[place] = sample
    yield from kept


def shown(sample: Sample, wording: Wording | None) -> Shown:
    image = sample.picture.load()
    size = (image.shape[0], image.shape[1])
    lines = []
    for number, turn in enumerate(sample.turns[:6]):
        if wording is None:
            lines.append(f"{mark(turn.question)} {mark(turn.answers[0], 'learned')}")
        else:
            lines.append(spell(wording.ask(sample, number), wording))
        if turn.notes:
            taught = wording is not None and wording.notes
            lines.append(f"notes: {mark(turn.notes, 'learned' if taught else '')}")
    used = dict.fromkeys(a for turn in sample.turns[:6] for a in turn.areas)
    regions = [sample.areas[area].region_mask(size) for area in used]
    return Shown(f"{sample.id} · {sample.picture.key}", image, regions, lines)


def spell(ask: Ask, wording: Wording) -> str:
    """A turn as the language model reads it: soft tokens, words, and token by token what it must
    learn to say."""
    queries = wording.bridge.qformer.num_queries
    parts = []
    for place, said in enumerate(ask):
        for piece in said.pieces:
            if isinstance(piece, str):
                parts.append(mark(piece))
            elif hasattr(piece, "source"):
                parts.append(mark(f"{piece.source} ×{queries}", "soft"))
        last = place + 1 == len(ask)
        for token in said.answer:
            text = wording.language.decode([token]).strip() or "end"
            text = "end" if token == wording.language.eos_id else text
            parts.append(mark(text, "learned") if last else mark(text))
    return " ".join(parts)
