"""The judge: what it asks, how it scores, and that it runs on models that lack parts."""

import dataclasses
import json
import math

import pytest
import torch

from adapters.images import load_image
from train.photos import asking, evaluate, pointing
from train.photos.asking import (
    NO_REGION,
    USUAL,
    WRONG_REGION,
    Answered,
    Ask,
    ask_all,
    balanced,
    calibration_error,
    majority,
    middle,
    said,
    share_right,
)
from train.photos.judged import Fact, Judged, few, rights, some
from train.photos.pointing import correction, overlap
from train.photos.report import rows_of, table, wording_rows
from train.photos.wordings import TEST


@pytest.fixture(scope="module")
def judged(source) -> Judged:
    return Judged(source)


def fact(truth: str = "dog", kind: str = "what", row: str = "what", **more) -> Fact:
    return Fact(row, more.pop("image", "a.jpg"), kind, truth, rights(truth), **more)


# ---- what is asked


def test_no_photo_that_is_learned_is_judged_on(source, judged):
    from train.photos.prepare import Source

    learned = Source(source)
    for one in judged.facts():
        if "learned from" in one.row:
            continue
        if "coco_by" not in one.image and one.image not in judged.dev:
            assert learned.is_held(one.image), one.image
    assert not set(judged.dev) & set(learned.flickr)


def test_every_kind_of_question_is_judged(judged):
    kinds = {one.kind for one in judged.facts()}
    assert kinds == set(TEST) - {"describe", "expression"}


def test_the_wrong_region_is_another_thing_of_the_photo(judged):
    for one in judged.whats():
        assert one.region != one.wrong
    dogs = [one for one in judged.whats() if one.truth == "dog"]
    assert dogs
    assert all(one.wrong for one in dogs)


def test_pope_asks_word_for_word(judged):
    asked = {one.words() for one in judged.pope()}
    assert "Is there a car in the image?" in asked


def test_names_are_put_into_every_wording():
    one = fact("two", "count", about="tennis racket")
    assert one.words() == "how many tennis rackets are there?"
    for wording in TEST["count"]:
        assert "tennis rackets" in one.words(wording)


def test_few_facts_hold_what_is_not_there_though_what_is_stands_first():
    facts = [
        Fact("exist", f"{n}.jpg", "exist", truth, frozenset([truth]))
        for n in range(40)
        for truth in ("yes", "yes", "no", "no")
    ]
    drawn = [one.truth for one in few(facts, 40)]
    assert 8 < drawn.count("yes") < 32


def test_some_facts_are_the_same_each_time_and_spread_over_photos():
    facts = [fact(image=f"{n % 10}.jpg") for n in range(100)]
    assert len(some(facts, 10)) == 10
    assert {one.image for one in few(facts, 10)} == {f"{n}.jpg" for n in range(10)}
    assert few(facts, 10) == few(facts, 10)
    assert few(facts, 0) == facts


# ---- how it is scored


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("dog", "dog"),
        ("A dog.", "dog"),
        ("it is a dog", "dog"),
        ("I can't tell, perhaps a dog.", "dog"),
        ("I can't tell, perhaps: dog", "dog"),
        ("hot dog", "hot dog"),
        ("two", "2"),
    ],
)
def test_the_name_in_an_answer(answer, name):
    assert said(answer) == name


def test_words_and_digits_of_a_number_are_both_right():
    one = Ask(fact("two", "count", about="dog"))
    assert Answered(one, "two").right
    assert Answered(one, "2").right
    assert not Answered(one, "three").right


def test_yes_and_no_are_read_as_pope_reads_them():
    yes, no = Ask(fact("yes", "exist", about="dog")), Ask(fact("no", "exist", about="dog"))
    assert Answered(yes, "Yes, there is a dog").right
    assert Answered(no, "No.").right
    assert not Answered(no, "yes").right


def test_majority_and_balance():
    found = [Answered(Ask(fact("dog")), "dog")] * 3 + [Answered(Ask(fact("cat")), "dog")]
    assert majority(found) == 0.75
    assert share_right(found) == 0.75
    assert balanced(found) == 0.5


def test_the_calibration_error_is_the_gap_between_confidence_and_truth():
    right, wrong = Answered(Ask(fact()), "dog", 0.95), Answered(Ask(fact()), "cat", 0.95)
    assert calibration_error([right] * 19 + [wrong]) == pytest.approx(0.0)
    assert calibration_error([wrong] * 10) == pytest.approx(0.95)
    mixed = [right] * 10 + [dataclasses.replace(wrong, confidence=0.05)] * 10
    assert calibration_error(mixed) == pytest.approx(0.05)
    assert math.isnan(calibration_error([Answered(Ask(fact()), "dog")]))


def test_a_row_tells_baselines_and_large_things_apart():
    name = "what: COCO's 80 classes"
    small = fact(row=name, share=0.001)
    large = fact("cat", row=name, share=0.5)
    found = [
        Answered(Ask(small), "cat"),
        Answered(Ask(large), "cat"),
        Answered(Ask(large, NO_REGION), "dog"),
        Answered(Ask(large, WRONG_REGION), "dog"),
        Answered(Ask(large, USUAL, TEST["what"][0]), "dog"),
    ]
    every, big = rows_of(name, found)
    assert (every.n, every.figure, every.no_region, every.wrong_region) == (2, 0.5, 0.0, 0.0)
    assert (big.n, big.figure) == (1, 1.0)
    (other,) = wording_rows(found)
    assert (other.n, other.figure, other.more["usual"]) == (1, 0.0, 1.0)


@pytest.mark.parametrize("before", ["", "no "])
def test_the_confidence_is_how_likely_the_answer_is_as_it_was_written(
    source, judged, tiny_assistant, monkeypatch, before
):
    """before: what stands between a prompt and the answer's first word."""
    monkeypatch.setattr(asking, "answers", lambda model, asked, **_: ["yes"] * len(asked))
    monkeypatch.setattr(asking, "lead", lambda language: before)
    one = next(judged.exist())
    (heard,) = ask_all(tiny_assistant, [Ask(one)], source, lambda *_: None)
    view = tiny_assistant.encode(load_image(source / one.image))
    likely = math.exp(view.log_likelihood(one.words(), (), f"{before}yes"))
    assert heard.answer == "yes"
    assert heard.confidence == pytest.approx(likely, rel=1e-3)


# ---- pointing


def test_a_click_lies_deep_inside():
    region_mask = torch.zeros(60, 80, dtype=torch.bool)
    region_mask[5:10, 5:75] = True  # a thin arm
    region_mask[5:55, 5:45] = True
    x, y = middle(region_mask)
    assert 15 < x < 40
    assert 15 < y < 50


def test_a_correction_adds_what_was_missed_and_excludes_what_spilled():
    truth = torch.zeros(40, 40, dtype=torch.bool)
    truth[10:30, 10:30] = True
    less, more = truth.clone(), truth.clone()
    less[10:30, 20:30] = False
    more[10:30, 30:40] = True
    x, _, label = correction(less, truth)
    assert (x > 20, label) == (True, 1)
    x, _, label = correction(more, truth)
    assert (x > 30, label) == (True, 0)
    assert correction(truth, truth)[2] == 1
    assert overlap(less, truth) == 0.5


# ---- whole runs


def judge(model, source, *more: str, capsys):
    assert evaluate.main([str(model), "--data", str(source), "--quick", *more]) == 0
    return capsys.readouterr().out


def test_a_whole_model_gets_every_row(source, tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "QUICK", 2)
    monkeypatch.setattr(evaluate, "QUICK_WORDINGS", 1)
    file = tmp_path / "report.json"
    out = judge(tiny_folder("loupe"), source, "--json", str(file), capsys=capsys)
    report = json.loads(file.read_text())
    rows = {row["name"]: row for row in report["rows"]}
    for name in (
        "what: COCO's 80 classes", "what: grocery", "exist: as POPE, coco_by", "colour: coco_by",
        "count: to four", "captions: CIDEr", "captions: BLEU-4", "segmenter: one click",
        "segmenter: three clicks", "segmenter: box", "other wordings: what",
        "find: RefCOCO's expressions", "other wordings: describe (CIDEr)",
        "calibration: expected error, all questions",
    ):  # fmt: skip
        assert name in rows, name
        assert rows[name]["n"] > 0
        assert name in out
    assert report["skipped"][0].startswith("no heads of stage 1")
    assert {"question", "answer", "truth", "right", "confidence"} <= set(report["answers"][0])


def test_a_model_without_a_segmenter_is_asked_about_true_masks(
    source, tiny_folder, tmp_path, monkeypatch, capsys
):
    import shutil

    from adapters.checkpoint import load_config, load_trained, save_checkpoint

    monkeypatch.setattr(evaluate, "QUICK", 1)
    whole = tiny_folder("loupe")
    root = tmp_path / "root"
    shutil.copytree(whole.parent, root)
    config = dataclasses.replace(load_config(whole), segmenter=None)
    bridge, _ = load_trained(whole, load_config(whole))
    save_checkpoint(root / whole.name, config, bridge)
    out = judge(root / whole.name, source, "--rows", "what: COCO,segmenter", capsys=capsys)
    assert "no segmenter" in out
    assert "segmenter: one click" not in out
    assert "true mask" in out


def test_a_stage_1_model_gets_retrieval_and_names_by_contrast(
    source, tiny_folder, tmp_path, monkeypatch, capsys
):
    from adapters.checkpoint import load_config, save_checkpoint
    from qformer.bridge import Bridge
    from qformer.stage1 import Stage1

    monkeypatch.setattr(evaluate, "QUICK", 3)
    monkeypatch.setattr(evaluate, "QUICK_RETRIEVED", 6)
    whole = tiny_folder("loupe")
    config = load_config(whole)
    parts = dataclasses.replace(config.bridge, language_width=None, instruct=False)
    plain = dataclasses.replace(config, language=None, segmenter=None, heads=True, bridge=parts)
    torch.manual_seed(0)
    bridge = Bridge(parts)
    folder = whole.parent / "stage1"
    save_checkpoint(folder, plain, bridge, heads=Stage1(bridge.qformer))
    out = judge(folder, source, capsys=capsys)
    assert "retrieval: text to picture R@1" in out
    assert "contrast: COCO's 80 names" in out
    assert "no language model" in out


def test_a_model_with_heads_and_words_finds_by_matching(source, tmp_path, monkeypatch, capsys):
    import tiny

    from adapters.checkpoint import load_config, load_trained, save_checkpoint
    from qformer import finding
    from qformer.proposals import Proposal
    from qformer.stage1 import Stage1
    from qformer.view import View

    matched = []
    real = finding.by_matching
    monkeypatch.setattr(finding, "by_matching", lambda *a: matched.append(a[3]) or real(*a))
    whole = tiny.loupe(tmp_path, instruct=False)
    config = load_config(whole)
    bridge, _ = load_trained(whole, config)

    def everything(view, settings):
        region_mask = torch.zeros(view.size, dtype=torch.bool)
        region_mask[10:34, 20:44] = True
        return [Proposal.of(region_mask, 0.9)]

    monkeypatch.setattr(View, "everything", everything)
    folder = whole.parent / "both"
    heads = Stage1(bridge.qformer)
    save_checkpoint(folder, dataclasses.replace(config, heads=True), bridge, heads=heads)
    out = judge(folder, source, "--rows", "find", capsys=capsys)
    assert "find: RefCOCO's expressions" in out
    assert "red car" in matched
    assert "within reach" in out


def test_what_contrast_names_is_the_nearest_of_coco(source, judged, monkeypatch):
    """A ranker whose areas all say "car" is right about cars alone."""

    class Said:
        def text_features(self, texts):
            return torch.eye(len(texts))

    class Heads:
        def row_features(self, count):
            features = torch.zeros(count, 1, len(pointing.COCO))
            features[..., pointing.COCO.index("car")] = 1
            return features

    class Seen:
        size, memory = (48, 64), None

        def region(self, mask):
            return mask

        def rows(self, regions, instruction):
            return len(regions)

    ranker = Said()
    ranker.stage1 = Heads()
    ranker.encode = lambda image: Seen()
    ranker.bridge = type("Bridge", (), {"inputs": lambda self, memory, rows: {"count": rows}})()
    things = judged.things
    right = pointing.contrast_names(ranker, things, source, lambda *_: None)
    assert sum(right) == sum(thing.name == "car" for thing in things)


def test_the_table_names_what_is_not_measured():
    assert "ImageNet" in table(evaluate.Report())
