"""What each task asks and how it scores: arms, region questions, official forms of files."""

import json
import pickle
from operator import itemgetter
from pathlib import Path

import pytest
import torch

from adapters.peers import PEERS
from train.data.pictures import FilePicture
from train.data.sample import EMPTY, Tally
from train.data.source import DataConfig
from train.eval import arms, scoring
from train.eval.case import Case, spread, unique
from train.eval.choices import choice_in
from train.eval.run import Asked, batches, found_record, read_cases
from train.eval.tasks import TASKS

SHARED = Path("../shared/data")


def case(id="1", answers=("dog",), choices=(), right="", **extra):
    picture = FilePicture(Path(f"{id}.png"))
    return Case(id, picture, "what is this?", answers, choices=choices, right=right, extra=extra)


def cases_of(task, path, **more):
    format = more.pop("format", TASKS[task].format)
    return read_cases(Asked(task, DataConfig(format, str(path), **more))).all


def test_arms_show_what_they_say():
    image = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8)
    region_mask = torch.zeros(40, 60, dtype=torch.bool)
    region_mask[10:20, 30:45] = True
    shown = {name: arm(image, (region_mask,)) for name, arm in arms.ARMS.items()}
    assert shown["question only"][0].unique().numel() == 1
    assert not shown["question only"][1]
    assert shown["no region"][0] is image
    assert not shown["no region"][1]
    assert shown["box crop"][0].equal(image[10:20, 30:45])
    blurred, _ = shown["blurred crop"]
    assert blurred.shape == (30, 45, 3)  # one box size more on each side, within the picture
    assert blurred[10:20, 15:30].equal(image[10:20, 30:45])
    assert shown["regions"] == (image, (region_mask,))


def test_models_without_regions_are_given_crops():
    assert "regions" in arms.arms_for(True, sees_regions=True)
    assert "regions" not in arms.arms_for(True, sees_regions=False)
    assert arms.arms_for(False, sees_regions=True) == ("question only", "picture")


def test_the_majority_does_not_see_the_right_choice_by_its_being_there():
    yes, no = (case(str(n), (w,), ("yes", "no"), w) for n, w in enumerate(("yes", "no")))
    assert arms.majority([yes] * 3 + [no]) == ["yes"] * 4
    assert len(set(arms.majority([yes, no] * 5))) == 1  # balanced: half of them right
    pairs = [
        case(str(n), (f"true {n}",), (f"true {n}", f"foil {n}"), f"true {n}") for n in range(400)
    ]
    right = sum(g == c.right for g, c in zip(arms.majority(pairs), pairs, strict=True))
    assert 160 < right < 240  # nothing to learn: a coin


def test_region_pope_asks_as_many_yes_as_no_with_the_nearest_neighbour(coco):
    found = cases_of("region-pope", coco)
    asked = {one.id: (one.question, one.truth, one.extra["overlap"]) for one in found}
    assert asked["1.0-yes"] == ("is this a dog?", "yes", True)
    assert asked["1.0-no"] == ("is this a cat?", "no", True)  # it touches; the hot dog is far
    assert asked["1.2-no"] == ("is this a cat?", "no", False)
    assert len(found) == 6  # two dogs, and a lone cat, have no neighbour of another kind
    assert sum(one.truth == "yes" for one in found) == 3


def test_chance_stands_beside_closed_answers(coco):
    found = cases_of("coco-what", coco)
    measure = scoring.closed_scores(found, [{"answer": "a Dog"}] * len(found))["accuracy"]
    assert (measure.value, measure.chance) == pytest.approx((1 / 2, 1 / 3))  # dog, cat, hot dog
    synonyms = [case("1", ("cup", "mug")), case("2", ("mug",)), case("3", ("cup",))]
    assert scoring.closed_scores(synonyms, [{}] * 3)["accuracy"].chance == pytest.approx(4 / 6)
    some = [case(str(n), ("a",), tuple("abcd"[: n + 2]), "a") for n in range(3)]
    chance = scoring.choice_scores(some, [{"answer": "a"}] * 3)["accuracy"].chance
    assert chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)


def test_leakage_counts_names_of_what_is_elsewhere(coco):
    found = {one.id: one for one in cases_of("leakage", coco)}
    answers = {
        "1.0": "a dog on a hot dog", "1.1": "a cat", "1.2": "two hot dogs and nothing else",
    }  # fmt: skip
    assert found.keys() == answers.keys()
    records = [{"answer": answers[id]} for id in found]
    measures = scoring.leakage_scores(list(found.values()), records)
    assert measures["leaks"].parts[:, 0].tolist() == [1, 0, 0]
    assert measures["names it"].parts[:, 0].tolist() == [1, 1, 1]


def test_yes_and_no_are_read_as_pope_does():
    assert scoring.yes_or_no("No, there is none.") == "no"
    assert scoring.yes_or_no("There is not. Yes.") == "no"
    assert scoring.yes_or_no("Yes. There is no doubt.") == "yes"
    assert scoring.yes_or_no("a cat") == "yes"
    cases = [case(answers=(w,), right=w, choices=("yes", "no")) for w in ("yes", "yes", "no", "no")]
    records = [{"answer": w} for w in ("yes", "no", "yes", "no")]
    measures = scoring.yes_no_scores(cases, records)
    values = {name: measure.value for name, measure in measures.items()}
    assert values == pytest.approx(
        {"accuracy": 0.5, "F1": 0.5, "precision": 0.5, "recall": 0.5, "says yes": 0.5}
    )


def test_consistency_wants_every_drawing_right():
    cases = [
        case(str(n), ("true",), ("true", "false"), "true", identifier=n // 2) for n in range(4)
    ]
    records = [{"answer": w} for w in ("true", "true", "true", "false")]
    score = scoring.consistent("identifier")(scoring.choice_scores)
    measures = score(cases, records)
    assert measures["accuracy"].value == 0.75
    assert measures["consistency"].value == 0.5


def test_a_choice_is_read_from_words_letters_and_beginnings():
    choices = ("red", "dark blue")
    for answer in ("Dark blue.", "b", "(B)", "dark blue, I think"):
        assert choice_in(answer, choices) == "dark blue"
    assert choice_in("green", choices) == "green"


def test_a_found_region_is_scored_by_box_and_by_mask():
    truth = torch.zeros(10, 10, dtype=torch.bool)
    truth[0:4, 0:4] = True
    found = torch.zeros_like(truth)
    found[0:4, 0:2] = True
    far = torch.zeros_like(truth)
    far[8:, 8:] = True
    record = found_record(case(), (truth,), [found, far, truth])
    assert record["box_iou"] == record["mask_iou"] == 0.5
    assert record["reach"] == 1
    assert record["chance"] == pytest.approx(1 / 3, abs=1e-4)  # half is not more than half
    assert record["whole"] == [0.16, 0.16]
    assert found_record(case(), (truth,), [])["box_iou"] == 0


def test_what_is_asked_of_one_picture_is_not_parted_where_it_fits():
    items = [
        (picture, n) for picture, count in (("a", 2), ("b", 2), ("c", 5)) for n in range(count)
    ]
    parts = [[picture for picture, _ in part] for part in batches(items, 3, itemgetter(0))]
    assert parts == [["a"] * 2, ["b"] * 2, ["c"] * 3, ["c"] * 2]


def test_ids_that_come_twice_are_counted_once():
    tally = Tally()
    assert len(list(unique([case("a"), case("a"), case("b")], tally))) == 2
    assert tally.bad == 1
    assert [one.id for one in spread([case(str(n)) for n in range(10)], 3)] == ["0", "3", "6"]


# The official forms of the files


def write(folder, name, values, lines=False):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, values)) if lines else json.dumps(values)
    file.write_text(text)
    return file


def test_pope_reads_its_three_files(coco):
    line = {"question_id": 1, "image": "1.png", "text": "Is there a dog in the image?"}
    for strategy, label in (("random", "yes"), ("popular", "no")):
        write(coco, f"coco_pope_{strategy}.json", [{**line, "label": label}], lines=True)
    found = cases_of("pope", coco, images=str(coco / "images"))
    assert [(one.truth, one.extra["set"]) for one in found] == [
        ("no", "popular"),
        ("yes", "random"),
    ]


def test_vsr_gives_statements_to_writers_and_captions_to_matchers(coco):
    lines = [
        {
            "image": "1.png",
            "caption": "The dog is left of the cat.",
            "label": 1,
            "relation": "left of",
        }
    ]
    (found,) = cases_of("vsr", write(coco, "vsr.jsonl", lines, lines=True))
    assert found.texts == ("The dog is left of the cat.",)
    assert (found.truth, found.choices) == ("true", ("true", "false"))


@pytest.mark.parametrize(
    ("task", "entry"),
    [
        ("sugarcrepe", {"filename": "1.png", "negative_caption": "a cat"}),
        ("valse", {"image_file": "1.png", "foil": "a cat", "mturk": {"caption": 3}}),
    ],
)  # fmt: skip
def test_pairs_are_matched_or_weighed(coco, task, entry):
    entry = {**entry, "caption": "a dog"}
    bad = {**entry, "mturk": {"caption": 1}}
    file = write(coco, "pairs/add_att.json", {"0": entry, "1": bad})
    found = cases_of(task, file, images=str(coco / "images"))
    assert found[0].texts == found[0].choices == ("a dog", "a cat")
    assert found[0].truth == "a dog"
    assert len(found) == (2 if task == "sugarcrepe" else 1)  # VALSE: people did not find it valid


def test_karpathys_splits_read_from_both_forms(coco):
    own = {"images": [
        {"filename": "1.png", "split": "test", "cocoid": 1, "sentences": [{"raw": "a dog"}]},
        {"filename": "2.png", "split": "val", "cocoid": 2, "sentences": [{"raw": "a cat"}]},
    ]}  # fmt: skip
    file = write(coco, "dataset_coco.json", own)
    (found,) = cases_of("coco", file, split=TASKS["coco"].split)
    assert (found.id, found.answers) == ("1", ("a dog",))
    lavis = [{"image": "val2014/3.png", "caption": ["a dog", "a cat"]}]
    (found,) = cases_of("flickr30k", write(coco, "flickr30k_test.json", lavis))
    assert found.answers == ("a dog", "a cat")
    assert found.picture.load().shape == (48, 64, 3)


def test_nocaps_keeps_the_domain(coco):
    values = {"images": [{"id": 1, "file_name": "1.png", "domain": "near-domain"}],
              "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}]}  # fmt: skip
    (found,) = cases_of("nocaps", write(coco, "nocaps.json", values))
    assert TASKS["nocaps"].strata(found) == "near-domain"


def test_an_empty_answer_beside_others_is_counted_and_the_others_stay(coco):
    gallery = {"filename": "1.png", "split": "test", "cocoid": 1}
    own = {"images": [
        {**gallery, "sentences": [{"raw": "a dog"}, {"raw": " "}, {"raw": "собака"}]},
        {**gallery, "cocoid": 2, "sentences": [{"raw": ""}]},
    ]}  # fmt: skip
    file = write(coco, "dataset_coco.json", own)
    found = read_cases(Asked("coco", DataConfig("karpathy", str(file))))
    assert [one.answers for one in found.all] == [("a dog", "собака")]
    assert found.left_out == {EMPTY: {"cases": 2, "examples": ["1", "2"]}}


def test_gar_bench_names_its_regions(coco):
    rle = [
        one["segmentation"]
        for one in json.loads((coco / "instances.json").read_text())["annotations"]
    ]
    entry = {
        "image": "1.png", "question": "Which is <Prompt1>?", "answer": "B", "type": "attribute",
        "choices": ["A. a dog", "B. a cat"], "mask_rles": rle[:2],
    }  # fmt: skip
    (found,) = cases_of("gar-bench", write(coco, "GAR-Bench-VQA.json", [entry]))
    assert found.question == "Which is region 2?"
    assert (found.truth, found.choices, len(found.areas)) == ("a cat", ("a dog", "a cat"), 2)


def test_paco_asks_for_names_and_attributes(coco):
    values = json.loads((coco / "instances.json").read_text())
    values["categories"] = [
        {"id": n, "name": name} for n, name in ((1, "mug"), (2, "mug:handle"), (3, "dog"))
    ]
    values["attributes"] = [{"id": 0, "name": "light_blue"}, {"id": 1, "name": "wood"}]
    values["attr_type_to_attr_idxs"] = {"color": [0], "material": [1]}
    values["annotations"][0]["attribute_ids"] = [0, 1]
    values["annotations"].append({"id": 90, "image_id": 1, "category_id": 1, "bbox": [5, 5, 0, 3]})
    file = write(coco, "paco.json", values)  # an area of nothing costs no other thing its questions
    names = cases_of("paco-what", file)
    assert {one.truth for one in names} == {"mug", "handle", "dog"}
    asked = {one.question: one.answers for one in cases_of("paco-attributes", file)}
    assert asked == {"what colour is it?": ("light blue",), "what material is it?": ("wood",)}


def test_expressions_come_with_their_region(coco):
    lines = [{"image": "images/1.png", "dataset": "refcoco_val",
              "expressions": ["the dog", "left one"], "bbox_xywh": [0, 0, 20, 20],
              "annotation_id": 0}]  # fmt: skip
    file = write(coco, "tasks/refer.jsonl", lines, lines=True)
    found = cases_of("refer", file, format="asked")
    assert [one.question for one in found] == ["the dog", "left one"]
    assert int(found[0].region_masks((48, 64))[0].sum()) == 400
    references = [{"ref_id": 7, "ann_id": 0, "image_id": 1, "split": "val",
                   "sentences": [{"sent": "the dog"}]}]  # fmt: skip
    (coco / "refs(umd).p").write_bytes(pickle.dumps(references))
    (found,) = cases_of("refcocog-captions", coco)
    assert found.answers == ("the dog",)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    ("task", "path", "format"),
    [
        ("captions", "coco_by", None), ("coco-what", "coco_by", None),
        ("region-pope", "coco_nc", None), ("leakage", "coco_nc", None),
        ("aokvqa", "coco_nc/tasks/vqa.jsonl", "asked"),
        ("okvqa", "coco_by/tasks/vqa.jsonl", "asked"),
        ("aokvqa-choice", "coco_nc/tasks/vqa.jsonl", "asked"),
        ("pope", "coco_nc/tasks/pope.jsonl", "asked"), ("vsr", "coco_nc/tasks/vsr.jsonl", "asked"),
        ("sugarcrepe", "coco_by/tasks/itm_pairs.jsonl", "asked"),
        ("valse", "coco_by/tasks/itm_pairs.jsonl", "asked"),
        ("refer", "coco_nc/tasks/refer.jsonl", "asked"), ("easy-vqa", "easyvqa", None),
        ("shapes", "shapes/val.jsonl", None), ("nlvr", "nlvr", None),
        ("shapeworld", "shapeworld", None),
    ],
)  # fmt: skip
def test_every_shared_file_can_be_asked(task, path, format):
    more = {"format": format, "split": TASKS[task].asked} if format else {}
    data = DataConfig(
        more.get("format", TASKS[task].format), str(SHARED / path), split=more.get("split")
    )
    found = read_cases(Asked(task, data, limit=20))
    assert len(found.all) >= 3
    image = found.all[0].picture.load()
    for region_mask in found.all[0].region_masks(tuple(image.shape[:2])):
        assert region_mask.any()


def test_the_docs_describe_every_task_and_peer():
    page = Path("docs/evaluation.md").read_text()
    for name in (*TASKS, *PEERS):
        assert f"`{name}`" in page
