"""The metrics are the official scorers', to 1e-6."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from train.eval.metrics import captions, meteor, vqa
from train.eval.metrics.words import words

GOLDEN = Path("../shared/data/metrics_golden")
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/data is not here")


def golden(name):
    return json.loads((GOLDEN / name).read_text())


def cut(items):
    return (
        [words(item["hypothesis"]) for item in items],
        [[words(text) for text in item["references"]] for item in items],
    )


@needs_golden
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(f"BLEU-{n}", f"Bleu_{n}") for n in (1, 2, 3, 4)] + [("ROUGE-L", "ROUGE_L"), ("CIDEr",) * 2],
)
def test_caption_scores_are_the_official_ones(ours, theirs):
    truth = golden("caption_metrics_golden.json")
    told, references = cut(truth["items"])
    measures = captions.bleu(told, references) | {
        "ROUGE-L": captions.rouge(told, references),
        "CIDEr": captions.cider(told, references),
    }
    measure = measures[ours]
    assert measure.value == pytest.approx(truth["overall"][theirs], abs=1e-6)
    for row, item in enumerate(truth["items"]):
        assert measure.only(np.array([row])).value == pytest.approx(
            item["scores"][theirs], abs=1e-6
        )


@needs_golden
@pytest.mark.skipif(meteor.jar() is None, reason="METEOR needs Java and its jar")
def test_meteor_is_the_official_one():
    truth = golden("caption_metrics_golden.json")
    measure = meteor.meteor(*cut(truth["items"]))
    assert measure.value == pytest.approx(truth["overall"]["METEOR"], abs=1e-6)
    for row in range(0, len(truth["items"]), 20):
        expected = truth["items"][row]["scores"]["METEOR"]
        assert measure.only(np.array([row])).value == pytest.approx(expected, abs=1e-6)


def test_without_java_or_jar_meteor_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv(meteor.JAR, str(tmp_path / "nothing.jar"))
    assert meteor.meteor([["a"]], [[["a"]]]) is None
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert meteor.jar() is None


@needs_golden
def test_captions_are_cut_into_the_official_words():
    for item in golden("caption_metrics_golden.json")["items"]:
        assert " ".join(words(item["hypothesis"])) == item["hyp_tokenized"]
        for text, tokenized in zip(item["references"], item["ref_tokenized"], strict=True):
            assert " ".join(words(text)) == tokenized


@pytest.mark.parametrize(
    ("caption", "expected"),
    [  # as PTBTokenizer (CoreNLP 3.4.1, -lowerCase) and the scorer's list of signs leave them
        ("It wasn't Mr. O'Brien's dog!", "it was n't mr. o'brien 's dog"),
        ("The U.S. Army -- in 3/4 of the cases...", "the u.s. army in 3/4 of the cases"),
        ('"Stop" sign; black-and-white', "stop sign black-and-white"),
        ("a (small) cat", "a -lrb- small -rrb- cat"),  # the scorer means to drop brackets
        ("I'm sure they'll go; we cannot", "i 'm sure they 'll go we can not"),
        ("$5.00 or 50%", "$ 5.00 or 50 %"),
        ("一只狗在跑", "一只狗在跑"),
        ("Ein Hund läuft über die Straße.", "ein hund läuft über die straße"),
        ("😀 smile", "smile"),
        ("...", ""),
        ("", ""),
    ],
)
def test_hard_captions_are_cut_as_by_the_official_tokeniser(caption, expected):
    assert " ".join(words(caption)) == expected


def test_an_empty_caption_scores_nothing_and_breaks_nothing():
    told, references = [[], ["a", "cat"]], [[["a", "dog"]], [["a", "cat"]]]
    for measure in (
        *captions.bleu(told, references).values(),
        captions.rouge(told, references),
        captions.cider(told, references),
    ):
        assert measure.only(np.array([0])).value == pytest.approx(0, abs=1e-6)
        assert np.isfinite(measure.value)


@needs_golden
def test_answers_are_normalised_as_the_official_script_does():
    for pair in golden("vqa_eval_golden.json")["normalisation"]:
        assert vqa.normalise(pair["raw"]) == pair["normalized"], pair["raw"]


@needs_golden
@pytest.mark.parametrize(
    ("script", "column"), [("official", "official_vqaeval_v1_repo"), ("lavis", "lavis_vqaeval")]
)
def test_vqa_accuracy_is_that_of_both_scripts(script, column):
    for item in golden("vqa_eval_golden.json")["accuracy_items"]:
        ours = vqa.accuracy(item["prediction"], item["answers"], script)
        assert ours == pytest.approx(item[column], abs=1e-6), item


def test_the_two_vqa_scripts_differ_where_they_are_known_to():
    assert vqa.accuracy("two", ["two"] * 10, "official") == 1
    assert vqa.accuracy("two", ["two"] * 10, "lavis") == 0
    mixed = ["two way"] * 9 + ["one way"]
    assert vqa.accuracy("two way", mixed, "official") == 1
    assert vqa.accuracy("two way", mixed, "lavis") == 0


def test_a_okvqa_counts_exact_answers_of_all_ten():
    assert vqa.matches("cake", ["cake", "cake", "pie"] + ["tart"] * 7) == pytest.approx(2 / 3)
    assert vqa.matches("Cake", ["cake"] * 10) == 0
