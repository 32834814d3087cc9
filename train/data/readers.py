"""Every data format by name, and the one way to read any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from qformer.contracts import LoupeError, hint
from train.data import benchmarks, coco, dialogues, folder, questions, shapes, streams
from train.data.sample import Sample, Tally, check, without_empty
from train.data.source import DataConfig

READERS: dict[str, Callable[[DataConfig, Tally], Iterator[Sample]]] = {
    "folder": folder.read_folder,
    "coco-captions": coco.read_captions,
    "coco-instances": coco.read_instances,
    "lvis": coco.read_instances,
    "refcoco": coco.read_refcoco,
    "vqav2": questions.read_vqa,
    "ok-vqa": questions.read_vqa,
    "a-okvqa": questions.read_aokvqa,
    "gqa": questions.read_gqa,
    "vg-qa": questions.read_genome_qa,
    "vg-regions": dialogues.read_genome_regions,
    "osprey": dialogues.read_osprey,
    "llava": dialogues.read_llava,
    "easy-vqa": questions.read_easy_vqa,
    "shapes": questions.read_shapes,
    "shapes-relabelled": shapes.read_relabelled,
    "shapes-where": shapes.read_where,
    "nlvr": questions.read_nlvr,
    "shapeworld": questions.read_shapeworld,
    "karpathy": benchmarks.read_karpathy,
    "nocaps": benchmarks.read_nocaps,
    "pope": benchmarks.read_pope,
    "vsr": benchmarks.read_vsr,
    "sugarcrepe": benchmarks.read_sugarcrepe,
    "valse": benchmarks.read_valse,
    "gar-bench": benchmarks.read_gar_bench,
    "paco": benchmarks.read_paco,
    "asked": benchmarks.read_asked,
    "parquet": streams.read_parquet,
    "webdataset": streams.read_tars,
}
STREAMED = ("parquet", "webdataset")  # pictures come with the samples: never all in memory


def read(config: DataConfig, tally: Tally | None = None) -> Iterator[Sample]:
    """The good samples of a data set, in its own order; the bad ones are counted in `tally`.

    Raises LoupeError for files that are missing or of another format, and where `tally` says that
    too many samples are bad.
    """
    if config.format not in READERS:
        raise LoupeError(f"unknown data format {config.format!r}; {hint(config.format, READERS)}")
    tally = Tally() if tally is None else tally
    return islice(_checked(config, tally), config.limit or None)


def asked(sample: Sample, question: str) -> Sample:
    """The sample with a question for what it only names or describes."""
    if not question:
        return sample
    turns = tuple(
        turn if turn.question else replace(turn, question=question) for turn in sample.turns
    )
    return replace(sample, turns=turns)


def _checked(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    try:
        for sample in READERS[config.format](config, tally):
            if not config.holds(sample.picture.key):
                continue
            with tally.row(sample.id):
                good = check(without_empty(asked(sample, config.question), tally))
                tally.ok()
                yield good
    except (KeyError, TypeError, AttributeError, IndexError):
        raise LoupeError(
            f"{config.path} is not written as {config.format} files are: check format and path"
        ) from None
