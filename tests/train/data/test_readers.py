"""Every data format, from files written as the official ones are."""

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qformer.contracts import ImageError, LoupeError, RegionError
from train.data.coco import names_of
from train.data.readers import READERS, read
from train.data.sample import Area, Tally
from train.data.source import DataConfig

SHARED = Path(__file__).parents[4] / "shared" / "data"


def put(folder: Path, **files) -> None:
    """Write values as JSON, texts as they are, None as a picture of 40 x 30."""
    for name, value in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        if value is None:
            Image.new("RGB", (40, 30), "teal").save(path)
        elif isinstance(value, str):
            path.write_text(value)
        else:
            path.write_text(json.dumps(value))


def lines(*values) -> str:
    return "\n".join(json.dumps(value) for value in values)


def all_of(format: str, path: Path, **more):
    tally = Tally()
    return list(read(DataConfig(format, str(path), **more), tally)), tally


def test_a_folder_of_ones_own(tmp_path):
    rows = lines(
        {"image": "a.png", "text": "a teal wall"},
        {"image": "a.png", "text": ["a wall", "teal"]},
        {"image": "a.png", "question": "what colour?", "answers": ["teal", "green"]},
        {"image": "a.png", "question": "how many?", "answer": 3},
        {
            "image": "a.png",
            "regions": [{"box": [1, 2, 9, 8]}, {"polygons": [[1, 1, 9, 1, 9, 9]]}],
            "conversation": [
                {"question": "which is bigger?", "answer": "region 1"},
                {"question": "what is region 2?", "answer": "a part"},
                {"question": "and its colour?", "answer": "teal"},
            ],
        },
    )
    put(tmp_path, data_dot_jsonl=rows, images__a_dot_png=None)
    samples, tally = all_of("folder", tmp_path)
    assert tally.good == len(samples) == 5
    assert samples[1].turns[0].answers == ("a wall", "teal")
    assert samples[2].turns[0].answers == ("teal", "green")
    assert samples[3].turns[0].answers == ("3",)
    assert [turn.areas for turn in samples[4].turns] == [(0, 1), (1,), (1,)]
    assert samples[4].dialogue
    assert not samples[0].dialogue
    assert samples[0].picture.load().shape == (30, 40, 3)
    assert samples[0].picture.digest() == samples[1].picture.digest()


def test_bad_lines_are_counted_each_with_its_reason(tmp_path):
    put(
        tmp_path,
        data_dot_jsonl="not json\n"
        + lines(
            {"image": "a.png", "text": ""},
            {"image": "a.png", "text": "word " * 10_000},
            {"image": "a.png", "txet": "a wall"},
            {"image": "a.png", "question": " ", "answer": "x"},
            {"image": "a.png", "question": "what is region 3?", "answer": "x", "regions": []},
            {"text": "no picture"},
            {"image": "a.png", "text": "x", "regions": [{"box": [5, 5, 5, 9]}]},
            {"image": "a.png", "text": "x", "regions": [{"box": [1, 2]}]},
            {"image": "a.png", "question": "q?", "answer": True},
            {"image": "a.png", "text": "good"},
        ),
    )
    samples, tally = all_of("folder", tmp_path)
    assert len(samples) == tally.good == 1
    assert tally.bad == 10
    assert set(tally.reasons) == {
        "a line is not a JSON object",
        "an answer or caption is empty",
        "a text has more than 1000 words",
        "a line says nothing: did you misspell 'txet'?",
        "a question is empty",
        "a turn is about a region that is not there",
        "'image' is missing",
        "a box has no area: write it as x0, y0, x1, y1 in pixels",
        "it is not written as its format says",
        "an answer is true or false: write it as a word",
    }
    assert tally.examples["a line is not a JSON object"] == ["line 1"]


def test_more_bad_samples_than_allowed_stop_the_reading(tmp_path):
    put(tmp_path, data_dot_jsonl=lines(*[{"image": "a.png", "text": ""}] * 20))
    config = DataConfig("folder", str(tmp_path))
    with pytest.raises(LoupeError, match=r"of 10 samples are bad, more than bad_share=0\.5"):
        list(read(config, Tally(0.5, least=10)))


def test_coco_captions_and_instances(tmp_path):
    images = [{"id": 7, "file_name": "a.png", "width": 40, "height": 30}, {"id": 8}]
    box = [2, 3, 10, 10]
    things = [
        {"id": 1, "image_id": 7, "category_id": 5, "bbox": box, "iscrowd": 0,
         "segmentation": [[2, 3, 12, 3, 12, 13, 2, 13]]},
        {"id": 2, "image_id": 7, "category_id": 6, "bbox": box, "iscrowd": 1,
         "segmentation": {"size": [30, 40], "counts": [0, 1200]}},
        {"id": 3, "image_id": 7, "category_id": 6, "bbox": box,
         "segmentation": {"size": [30, 40], "counts": [30, 60, 1110]}},
        {"id": 4, "image_id": 7, "category_id": 99, "bbox": box},
    ]  # fmt: skip
    names = [{"id": 5, "name": "stop_sign"}, {"id": 6, "name": "a", "synonyms": ["cup", "mug"]}]
    captions = [{"id": n, "image_id": 7, "caption": text} for n, text in enumerate("ab ")]
    put(
        tmp_path,
        captions_dot_json={"images": images, "annotations": captions},
        instances_dot_json={"images": images, "annotations": things, "categories": names},
        images__a_dot_png=None,
    )
    (sample,), tally = all_of("coco-captions", tmp_path)
    assert sample.turns[0].answers == ("a", "b")
    assert tally.reasons == {"an answer or caption is empty": 1}
    (sample,), tally = all_of("coco-instances", tmp_path)
    assert [turn.answers for turn in sample.turns] == [("stop sign",), ("cup", "mug")]
    assert tally.reasons == {"an annotation's category is not listed": 1}
    first, second = (area.region_mask((30, 40)) for area in sample.areas)
    assert first[8, 7]
    assert second[:, 1:3].all()
    assert second.sum() == 60


def test_panoptic_names_are_words():
    given = ("sky-other-merged", "door-stuff", "wall-brick", "t-shirt", "apple_(fruit)")
    told = [names_of({"name": name})[0] for name in given]
    assert told == ["sky", "door", "wall-brick", "t-shirt", "apple"]


def test_lvis_pictures_are_named_by_their_address(tmp_path):
    image = {"id": 7, "coco_url": "http://images.cocodataset.org/train2017/a.png"}
    thing = {"id": 1, "image_id": 7, "category_id": 5, "bbox": [2, 3, 4, 5]}
    category = {"id": 5, "name": "apple_(fruit)"}
    file = {"images": [image], "annotations": [thing], "categories": [category]}
    put(tmp_path, lvis_dot_json=file, train2017__a_dot_png=None)
    (sample,), _ = all_of("lvis", tmp_path / "lvis.json", images=str(tmp_path))
    assert sample.turns[0].answers == ("apple",)
    assert sample.areas[0].box == (2, 3, 6, 8)
    assert sample.picture.load().shape == (30, 40, 3)


def test_refcoco_reads_its_pickle_and_nothing_that_runs_code(tmp_path):
    reference = {
        "ref_id": 1, "ann_id": 3, "image_id": 7, "split": "val",
        "sentences": [{"sent": "left man"}, {"sent": "man in red"}],
    }  # fmt: skip
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([reference], protocol=2))
    put(
        tmp_path,
        instances_dot_json={
            "images": [{"id": 7, "file_name": "a.png"}],
            "annotations": [{"id": 3, "bbox": [1, 1, 5, 5], "segmentation": []}],
        },
    )
    (sample,), _ = all_of("refcoco", tmp_path, images=str(tmp_path))
    assert sample.turns[0].answers == ("left man", "man in red")
    with pytest.raises(LoupeError, match="holds the splits val, and no 'train'"):
        all_of("refcoco", tmp_path, split="train")
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(LoupeError, match="does not need"):
        all_of("refcoco", tmp_path)


def test_vqav2_learns_what_most_people_said(tmp_path):
    said = [{"answer": word} for word in ("cat", "dog", "dog", "a dog")]
    put(
        tmp_path,
        q_dot_json={
            "data_subtype": "train2014",
            "questions": [
                {"question_id": 70, "image_id": 7, "question": "which animal?"},
                {"question_id": 71, "image_id": 7, "question": "and now?"},
            ],
        },
        a_dot_json={"annotations": [{"question_id": 70, "answers": said, "answer_type": "other"}]},
        COCO_train2014_000000000007_dot_jpg=None,
    )
    answers = str(tmp_path / "a.json")
    (sample,), tally = all_of("vqav2", tmp_path / "q.json", answers=answers)
    assert sample.turns[0].answers == ("dog", "dog", "cat", "a dog")
    assert sample.picture.load().shape == (30, 40, 3)
    assert tally.reasons == {"a question has no answer in the second file": 1}
    with pytest.raises(LoupeError, match="need answers=FILE"):
        all_of("vqav2", tmp_path / "q.json")


def test_other_question_sets(tmp_path):
    aokvqa = {
        "split": "val", "image_id": 7, "question_id": "x", "question": "q?",
        "choices": ["a", "b"], "correct_choice_idx": 1, "direct_answers": ["b", "c", "b"],
    }  # fmt: skip
    gqa = {"9": {"question": "q?", "answer": "yes", "imageId": "7", "types": {}}}
    genome = [{"id": 7, "qas": [{"question": "q?", "answer": "Blue."}] * 2}]
    put(tmp_path, a_dot_json=[aokvqa], g_dot_json=gqa, v_dot_json=genome)
    (sample,), _ = all_of("a-okvqa", tmp_path / "a.json")
    assert sample.turns[0].answers == ("b", "b", "c")
    assert sample.turns[0].choices == ("a", "b")
    assert sample.extra["right_choice"] == "b"
    (sample,), _ = all_of("gqa", tmp_path / "g.json")
    assert sample.picture.key.endswith("7.jpg")
    (sample,), _ = all_of("vg-qa", tmp_path / "v.json")
    assert [turn.answers for turn in sample.turns] == [("Blue",)] * 2


def test_dialogues(tmp_path):
    llava = [
        {"id": "1", "image": "a.png", "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A wall."},
            {"from": "human", "value": "Its colour?"}, {"from": "gpt", "value": "Teal."}]},
        {"id": "2", "conversations": []},
        {"id": "3", "image": "a.png", "conversations": [{"from": "human", "value": "?"}]},
    ]  # fmt: skip
    (tmp_path / "l.json").write_text(json.dumps(llava))
    (sample,), tally = all_of("llava", tmp_path / "l.json")
    assert [turn.question for turn in sample.turns] == ["What is it?", "Its colour?"]
    assert sample.dialogue
    assert tally.bad == 2
    annotation = [{"segmentation": [[1, 1, 9, 1, 9, 9]]}, {"bbox": [0, 0, 5, 5]}]
    osprey = [
        {"id": 1, "file_name": "COCO_train2014_a.png", "annotation": annotation, "conversations": [
            {"from": "human", "value": "What is <region2> to <region1>?"},
            {"from": "gpt", "value": "<region2> is beside."}]},
        {"id": 2, "file_name": "a.png", "annotation": annotation,
         "description": ["<region1>: A dark corner.", "<region2>: A bright one."]},
    ]  # fmt: skip
    put(tmp_path, o_dot_json=osprey, a_dot_png=None)
    (first, second), _ = all_of("osprey", tmp_path / "o.json")
    assert first.turns[0].question == "What is region 2 to region 1?"
    assert first.turns[0].answers == ("region 2 is beside.",)
    assert first.turns[0].areas == (1, 0)
    assert second.turns[1].answers == ("A bright one.",)
    assert first.picture.load().shape == (30, 40, 3)


def test_genome_regions_keep_the_good_ones_of_a_picture(tmp_path):
    region = {"region_id": 1, "x": 1, "y": 2, "width": 5, "height": 6, "phrase": "a dark corner"}
    flat = {**region, "region_id": 2, "width": 0}
    put(tmp_path, region_descriptions_dot_json=[{"id": 7, "regions": [region, flat, region]}])
    (sample,), tally = all_of("vg-regions", tmp_path)
    assert [turn.areas for turn in sample.turns] == [(0,), (1,)]
    assert sum(tally.reasons.values()) == 1


def test_shapes_and_easy_vqa_and_nlvr_and_shapeworld(tmp_path):
    np.savez(tmp_path / "tiny.npz", images=np.full((2, 30, 30, 3), 9, np.uint8))
    rows = lines(
        {"index": 1, "question": "is a red shape a circle", "answer": "true"},
        {"index": 5, "question": "is a red shape a circle", "answer": "true"},
        {"index": 0, "question": "is a red shape a circle", "answer": "perhaps"},
    )
    put(tmp_path, tiny_dot_jsonl=rows)
    (sample,), tally = all_of("shapes", tmp_path, split="tiny")
    assert sample.turns[0].answers == ("yes",)
    assert sample.picture.load().shape == (30, 30, 3)
    assert tally.bad == 2

    with zipfile.ZipFile(tmp_path / "train_images.zip", "w") as archive:
        content = io.BytesIO()
        Image.new("RGB", (8, 8)).save(content, "png")
        archive.writestr("images/3.png", content.getvalue())
    put(tmp_path, train_questions_dot_json=[["what?", "blue", 3], ["what?", "blue", 4]])
    (first, second), _ = all_of("easy-vqa", tmp_path)
    assert first.picture.load().shape == (8, 8, 3)
    with pytest.raises(ImageError, match=r"no 4\.png"):
        second.picture.load()

    nlvr = {"identifier": "12-0", "directory": "5", "sentence": "There is a box.", "label": "true"}
    put(tmp_path, dev_dot_json=json.dumps(nlvr))
    samples, _ = all_of("nlvr", tmp_path)
    assert len(samples) == 6
    assert samples[2].picture.key.endswith("5/dev-12-0-2.png")
    assert samples[0].turns[0].answers == ("true",)

    world = {"image": "x.png", "config": "c", "captions": ["a .", "b ."], "agreement": [1.0, 0.5]}
    put(tmp_path, captions_dot_jsonl=json.dumps(world))
    (sample,), _ = all_of("shapeworld", tmp_path)
    assert [turn.answers for turn in sample.turns] == [("true",), ("false",)]


def test_archives_are_streamed_and_a_damaged_one_loses_its_rest_only(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "png")

    def add(archive, name, data):
        about = tarfile.TarInfo(name)
        about.size = len(data)
        archive.addfile(about, io.BytesIO(data))

    for shard in ("0.tar", "1.tar"):
        with tarfile.open(tmp_path / shard, "w") as archive:
            add(archive, "a.png", content.getvalue())
            add(archive, "a.txt", b"a dark square")
            add(archive, "b.png", content.getvalue())
            add(archive, "b.json", json.dumps({"question": "q?", "answer": "x"}).encode())
            add(archive, "c.txt", b"no picture")
    damaged = tmp_path / "1.tar"
    damaged.write_bytes(damaged.read_bytes()[:540])
    samples, tally = all_of("webdataset", tmp_path)
    assert [sample.turns[0].question for sample in samples[:2]] == ["", "q?"]
    assert samples[0].picture.load().shape == (8, 8, 3)
    assert tally.reasons["a member has no picture"] == 1
    assert tally.reasons["a tar file is damaged; its rest is left out"] == 1


def test_tables_are_streamed(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "png")
    table = pyarrow.table(
        {
            "image": [{"bytes": content.getvalue()}, {"bytes": None}],
            "text": ["a dark square", "nothing"],
        }
    )
    parquet.write_table(table, tmp_path / "0.parquet")
    (sample,), tally = all_of("parquet", tmp_path)
    assert sample.turns[0].answers == ("a dark square",)
    assert tally.reasons == {"a row has no picture": 1}


def test_a_missing_file_and_an_unknown_format_say_what_to_do(tmp_path):
    with pytest.raises(LoupeError, match="did you mean 'coco-captions'"):
        read(DataConfig("coco-caption", "x"))
    for name in READERS:
        with pytest.raises(LoupeError, match=r"check path|answers=FILE|pyarrow"):
            all_of(name, tmp_path / "nowhere")
    put(tmp_path, a_dot_json=[1, 2])
    with pytest.raises(LoupeError, match="not written as vqav2 files are"):
        all_of("vqav2", tmp_path / "a.json", answers=str(tmp_path / "a.json"))


def test_a_region_outside_its_picture_says_so():
    with pytest.raises(RegionError, match="outside"):
        Area(box=(50, 5, 60, 9)).region_mask((30, 40))
    assert Area(box=(-5, -5, 3, 2)).region_mask((30, 40)).sum() == 6


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not here")
@pytest.mark.parametrize(
    ("format", "path", "count"),
    [
        ("coco-captions", "coco_by", 103),
        ("coco-instances", "coco_by", 118),
        ("easy-vqa", "easyvqa", 38_575),
        ("shapes", "shapes/train_tiny.jsonl", 64),
        ("nlvr", "nlvr", 1978),
        ("shapeworld", "shapeworld", 700),
    ],
)
def test_real_data(format, path, count):
    samples, tally = all_of(format, SHARED / path)
    assert len(samples) == count
    assert tally.bad == 0
    for sample in samples[:3]:
        size = tuple(sample.picture.load().shape[:2])
        for area in sample.areas:
            assert area.region_mask(size).any()
