"""Every task by name. A new one is an entry here, and a reader in train/data where its files are
new."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from train.data.sample import Sample
from train.eval import regions, scoring
from train.eval.case import Case, plain
from train.eval.task import Task

COCO_SCORER = "pycocoevalcap's, with its tokeniser; document frequencies from the items scored"
VQA_SCORER = (
    "GT-Vision-Lab's script (the leaderboard's); LAVIS' port, which differs where all ten people "
    "agree and where they write numbers as words, stands beside it"
)


def by_set(case: Case) -> str | None:
    return case.extra.get("set")


def choices_shown(samples: Iterable[Sample]) -> Iterator[Case]:
    """Questions that come with choices; others cannot be chosen."""
    return (case for case in plain(samples) if case.choices and case.right)


def easy_enough(samples: Iterable[Sample]) -> Iterator[Case]:
    """A-OKVQA leaves questions that people answered in too many ways out of direct answering."""
    for case in plain(samples):
        if not case.extra.get("difficult"):
            yield replace(case, choices=(), right="")


def open_ended(samples: Iterable[Sample]) -> Iterator[Case]:
    return (replace(case, choices=(), right="") for case in plain(samples))


def captions_matched(samples: Iterable[Sample]) -> Iterator[Case]:
    """Which of two captions is true: the choices are the texts."""
    return (replace(case, texts=case.choices) for case in plain(samples))


def statements(samples: Iterable[Sample]) -> Iterator[Case]:
    """Is a caption true: a model that matches is given the bare caption."""
    for case in plain(samples):
        yield replace(case, texts=(case.extra["caption"],))


def region_captions(samples: Iterable[Sample]) -> Iterator[Case]:
    return (case for case in plain(samples) if case.areas)


_CAPTIONS = {
    "keys": ("image_id", "caption"),
    "rule": COCO_SCORER,
    "score": scoring.caption_scores,
    "preset": "caption",
}
_PAIRS = {
    "cases": captions_matched,
    "ways": ("match", "choose"),
    "score": scoring.choice_scores,
    "strata": by_set,
}
_RETRIEVAL = {
    "rule": "recall of any right item among the best 1, 5 and 10, both ways; contrast picks, "
    "matching decides (BLIP-2)",
    "ways": ("retrieve",),
    "score": scoring.caption_scores,
    "format": "karpathy",
    "split": "test",
}
TASKS: dict[str, Task] = {
    "coco": Task(
        "captions of COCO, Karpathy's split", format="karpathy", split="test", **_CAPTIONS
    ),
    "nocaps": Task(
        "captions of NoCaps, by domain", format="nocaps", strata=by_set, **_CAPTIONS
    ),
    "flickr30k": Task(
        "captions of Flickr30k, Karpathy's split", format="karpathy", split="test", **_CAPTIONS
    ),
    "captions": Task("captions of any COCO captions file", format="coco-captions", **_CAPTIONS),
    "vqav2": Task(
        "open questions, ten people's answers", VQA_SCORER, "vqav2", scoring.vqa_scores,
        cases=open_ended, asked="VQAv2", strata=lambda case: case.extra.get("answer_type"),
    ),
    "okvqa": Task(
        "questions that need knowledge", VQA_SCORER, "ok-vqa", scoring.vqa_scores,
        cases=open_ended, asked="OK-VQA",
    ),
    "aokvqa": Task(
        "A-OKVQA, direct answers",
        "allenai/aokvqa's: exact text, three of ten people make it right; questions it calls "
        "difficult are left out",
        "a-okvqa", scoring.direct_scores, cases=easy_enough, asked="A-OKVQA",
        keys=("question_id", "direct_answer"),
    ),
    "aokvqa-choice": Task(
        "A-OKVQA, the likeliest of four choices",
        "accuracy; choices are ranked by the sum of their tokens' log-likelihoods, as in LAVIS",
        "a-okvqa", scoring.choice_scores, cases=choices_shown, ways=("choose", "write"),
        asked="A-OKVQA", keys=("question_id", "multiple_choice"),
    ),
    "gqa": Task(
        "questions about scene graphs",
        "exact text after cleaning, as LAVIS does; by GQA's own script, uncleaned, beside it",
        "gqa", scoring.gqa_scores, strata=lambda case: case.extra.get("type"),
        keys=("questionId", "prediction"),
    ),
    "pope": Task(
        "is there such an object in the picture?", "POPE's reading of a free answer as yes or no",
        "pope", scoring.yes_no_scores, asked="POPE", closed=True, strata=by_set,
        verbatim=True,
    ),
    "vsr": Task(
        "is a spatial statement true?",
        "accuracy; a matching model says true where its match logit beats the other",
        "vsr", scoring.choice_scores, asked="VSR", cases=statements, closed=True,
        ways=("match", "choose", "write"), strata=lambda case: case.extra.get("relation"),
    ),
    "sugarcrepe": Task(
        "the true caption against a foil, by kind of foil", "accuracy over pairs", "sugarcrepe",
        asked="SugarCrepe", **_PAIRS,
    ),
    "valse": Task(
        "the true caption against a foil, by phenomenon",
        "accuracy over pairs (VALSE's acc_r), of pairs that two of three people found valid",
        "valse", asked="VALSE", **_PAIRS,
    ),
    "coco-retrieval": Task("pictures for texts and texts for pictures, COCO", **_RETRIEVAL),
    "flickr30k-retrieval": Task("the same on Flickr30k", **_RETRIEVAL),
    "shapes": Task(
        "SHAPES: yes or no about a grid of shapes", "exact answers", "shapes",
        scoring.choice_scores, ways=("choose", "write"), closed=True,
    ),
    "easy-vqa": Task(
        "easy-VQA: 13 answers about one shape", "exact answers", "easy-vqa", scoring.closed_scores,
        ways=("write", "name"), closed=True,
    ),
    "shapeworld": Task(
        "ShapeWorld: does a caption agree with the picture?", "an agreement of 1.0 is true",
        "shapeworld", scoring.choice_scores, ways=("choose", "write"), closed=True,
        strata=lambda case: case.extra.get("config"),
    ),
    "nlvr": Task(
        "NLVR: is a sentence true of the picture?",
        "accuracy; consistency: a sentence is right in all its drawings",
        "nlvr", scoring.consistent("identifier")(scoring.choice_scores),
        ways=("choose", "write"), closed=True,
    ),
    "refcocog-captions": Task(
        "what people call a region, RefCOCOg", format="refcoco", cases=region_captions,
        regions=True, **_CAPTIONS,
    ),
    "vg-regions": Task(
        "Visual Genome's region captions", format="vg-regions", cases=region_captions,
        regions=True, **_CAPTIONS,
    ),
    "coco-what": Task(
        '"what is this?" of COCO\'s masks', "exact name", "coco-instances", scoring.closed_scores,
        cases=regions.what_cases, ways=("write", "name"), regions=True, similar=True, closed=True,
    ),
    "lvis-what": Task(
        '"what is this?" of LVIS\' masks', "exact name or synonym", "lvis", scoring.closed_scores,
        cases=regions.what_cases, ways=("write", "name"), regions=True, similar=True,
    ),
    "paco-what": Task(
        '"what is this?" of PACO\'s objects and parts', "exact name", "paco", scoring.closed_scores,
        cases=regions.what_cases, ways=("write", "name"), regions=True, similar=True,
    ),
    "paco-attributes": Task(
        "colour, pattern and material of PACO's masks", "any of the attributes given", "paco",
        scoring.closed_scores, cases=regions.attribute_cases, regions=True, similar=True,
        strata=lambda case: case.question.split()[1],
    ),
    "region-pope": Task(
        '"is this a dog?", as many yes as no, neighbours as negatives',
        "POPE's reading of a free answer as yes or no", "coco-instances", scoring.yes_no_scores,
        cases=regions.pope_cases, regions=True, closed=True, verbatim=True,
        strata=lambda case: "neighbour touches" if case.extra["overlap"] else "neighbour apart",
    ),
    "gar-bench": Task(
        "GAR-Bench-VQA: multiple choice about several regions",
        "accuracy; choices are ranked by log-likelihood", "gar-bench", scoring.choice_scores,
        cases=choices_shown, ways=("choose", "write"), regions=True, strata=by_set,
    ),
    "refer": Task(
        "the region that an expression means", "box IoU above 0.5, mean mask IoU", "refcoco",
        scoring.found_scores, cases=region_captions, ways=("find",), regions=True,
        asked="refcoco", strata=by_set,
    ),
    "leakage": Task(
        "does a region's description name what lies elsewhere?",
        "a name of another kind of thing in the picture, as a word; less is better",
        "coco-instances", scoring.leakage_scores, cases=regions.leakage_cases, regions=True,
        preset="caption",
    ),
}  # fmt: skip
