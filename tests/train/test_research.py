"""What researchers tried: forms of the field's files, splits, what is best, what a run keeps."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from qformer.contracts import LoupeError
from train import record
from train.card import check_shared
from train.data.readers import read
from train.data.sample import Tally
from train.data.source import DataConfig
from train.runs import Training


def samples(tally=None, **config):
    return list(read(DataConfig(**config), tally))


def jpeg():
    content = io.BytesIO()
    Image.new("RGB", (20, 10), (200, 30, 30)).save(content, "JPEG")
    return content.getvalue()


def shard(file, names, **more):
    """As img2dataset writes it: jpg, txt and a json that says where the picture is from."""
    with tarfile.open(file, "w") as archive:
        for name in names:
            told = {"url": "u", "key": name, "status": "success", "width": 20, **more}
            parts = {"jpg": jpeg(), "txt": f"a dog {name}\n".encode(),
                     "json": json.dumps(told).encode()}  # fmt: skip
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def test_img2datasets_shards_are_read_and_braces_expanded(tmp_path):
    for number in range(3):
        shard(tmp_path / f"{number:05d}.tar", [f"{number}0", f"{number}1"], caption="not this")
    found = samples(format="webdataset", path=str(tmp_path / "{00000..00001}.tar"))
    assert [one.turns[0].answers for one in found] == [
        (f"a dog {name}",) for name in ("00", "01", "10", "11")
    ]
    with pytest.raises(LoupeError, match=r"no file .*00003\.tar, which"):
        samples(format="webdataset", path=str(tmp_path / "{00002..00003}.tar"))


def test_a_json_that_speaks_in_our_words_comes_before_the_text_beside_it(tmp_path):
    shard(tmp_path / "a.tar", ["0"], question="what?", answer="a dog")
    (one,) = samples(format="webdataset", path=str(tmp_path))
    assert (one.turns[0].question, one.turns[0].answers) == ("what?", ("a dog",))


def test_a_column_called_caption_is_the_text(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"jpg": [jpeg()], "caption": ["a dog"], "url": ["u"]})
    parquet.write_table(table, tmp_path / "0.parquet")
    (one,) = samples(format="parquet", path=str(tmp_path))
    assert one.turns[0].answers == ("a dog",)


def karpathy(folder):
    images = [
        {"filename": f"{name}.png", "split": name, "cocoid": n, "sentences": [{"raw": "a dog"}]}
        for n, name in enumerate(("train", "val", "test"))
    ]
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images}))
    return {"format": "karpathy", "path": str(folder / "dataset_coco.json")}


def own(folder):
    lines = [{"image": f"{name}.png", "text": "a dog", "split": name} for name in ("train", "test")]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {"format": "folder", "path": str(folder)}


def easy_vqa(folder):
    for name in ("train", "test"):
        (folder / name).mkdir()
        (folder / name / "questions.json").write_text(json.dumps([["what?", "red", 0]]))
    return {"format": "easy-vqa", "path": str(folder)}


@pytest.mark.parametrize("make", [karpathy, own, easy_vqa])
def test_data_of_several_splits_are_read_only_where_one_is_named(tmp_path, make):
    config = make(tmp_path)
    with pytest.raises(LoupeError, match=r"holds the splits test, train.*: name one of them"):
        samples(**config)
    with pytest.raises(LoupeError, match="and no 'training': name one"):
        samples(**config, split="training")
    assert len(samples(**config, split="train")) == 1


def test_what_is_asked_of_a_named_thing_can_be_set(tmp_path):
    values = {
        "images": [{"id": 1, "file_name": "1.png"}], "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
    }  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps(values))
    config = {"format": "coco-instances", "path": str(tmp_path)}
    assert samples(**config)[0].turns[0].question == ""
    (one,) = samples(**config, question="what is this?")
    assert (one.turns[0].question, one.turns[0].answers) == ("what is this?", ("dog",))


def test_shares_of_a_picture_are_no_box_of_pixels(tmp_path):
    line = {"image": "a.png", "text": "a dog", "regions": [{"box": [0.1, 0.2, 0.9, 1.0]}]}
    (tmp_path / "data.jsonl").write_text(json.dumps(line))
    tally = Tally()
    assert not samples(tally, format="folder", path=str(tmp_path))
    assert "give pixels, not shares" in next(iter(tally.reasons))


def test_stage_1_learns_captions_without_a_region(recipe_of, tmp_path):
    lines = [{"image": f"{n}.png", "text": [f"a {n}", f"picture {n}"]} for n in range(4)]
    (tmp_path / "captions").mkdir()
    for n in range(4):
        Image.new("RGB", (30, 30), (60 * n, 9, 9)).save(tmp_path / "captions" / f"{n}.png")
    (tmp_path / "captions" / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    path = f'"{tmp_path / "captions"}"'
    training = Training(recipe_of("stage1", f"data.0.path={path}", f"validate.0.path={path}"))
    batch = training.batch(np.random.default_rng(0))
    losses = training.losses(batch)
    assert {name: bool(torch.isfinite(value)) for name, value in losses.items()} == {
        "itc": True, "itm": True, "itg": True}  # fmt: skip
    assert training.evaluate()["score"] < 0


def test_the_best_of_free_text_is_the_least_loss(recipe_of):
    training = Training(recipe_of("instruct"), lambda line: None)
    before, after = {"right": 0.0, "loss": 2.0}, {"right": 0.0, "loss": 1.0}
    short = training.judge(before) == training.judge(after) == 0  # by what is right: colours
    assert short
    for _, drawn in training.valid:
        for sample in drawn:
            for turn in sample.turns:
                object.__setattr__(turn, "answers", ("a long answer in free text",))
    assert training.judge(after) > training.judge(before)
    named = Training(recipe_of("instruct", "loop.best=loss"), lambda line: None)
    assert named.judge(after) > named.judge(before)
    with pytest.raises(LoupeError, match="instruct is scored by right, loss"):
        recipe_of("instruct", "loop.best=itc")


def test_a_run_keeps_what_it_was_made_with_and_a_resume_says_what_changed(recipe_of, tmp_path):
    run, file = tmp_path / "kept", tmp_path / "recipe.toml"
    first = recipe_of("instruct", "prompt.composer=regions")
    record.keep_record(run, first, file, ["prompt.composer=regions"])
    kept = json.loads((run / "run.json").read_text())
    assert kept["changes"] == ["prompt.composer=regions"]
    assert kept["recipe"]["prompt"] == {"composer": "regions"}
    assert kept["versions"]["torch"] == torch.__version__
    assert (run / "recipe.toml").read_text() == file.read_text()
    assert record.what_changed(run, first) == []
    second = recipe_of("instruct", "prompt.composer=regions", "loop.lr=0.5", "data.0.weight=2.0")
    told = record.what_changed(run, second)
    assert any(line.startswith("loop.lr was ") and line.endswith("is 0.5") for line in told)
    assert any(line.startswith("data.0.weight was 1.0") for line in told)
    record.keep_record(run, second, file, [])
    assert json.loads((run / "run.json").read_text())["before"][0]["changes"] == kept["changes"]


def test_a_push_that_cannot_be_is_refused_before_anything_is_learned(recipe_of):
    from train.parts import planned_parts

    with pytest.raises(LoupeError, match="is a folder on this machine"):
        check_shared(planned_parts(recipe_of("instruct")))


def test_peft_opens_a_lora_by_itself(recipe_of, tmp_path):
    from peft import AutoPeftModelForCausalLM

    training = Training(recipe_of("instruct", "lora.rank=4"), lambda line: None)
    training.keep(tmp_path / "kept")
    opened = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "kept" / "lora")
    assert any("lora_A" in name for name, _ in opened.named_parameters())


def test_the_docs_have_every_setting():
    import dataclasses
    from pathlib import Path

    from train.features import Augment, CacheConfig
    from train.notes import NotesConfig
    from train.recipe import LoraConfig, Recipe, StartConfig, Trains
    from train.settings import LoopConfig

    page = Path("docs/training.md").read_text()
    tables = {"": Recipe, "start.": StartConfig, "lora.": LoraConfig, "trains.": Trains,
              "loop.": LoopConfig, "data.": DataConfig, "cache.": CacheConfig,
              "augment.": Augment, "notes.": NotesConfig}  # fmt: skip
    inner = {"start", "loop", "data", "validate", "trains", "lora", "cache", "augment", "notes",
             "momentum"}  # fmt: skip
    for prefix, table in tables.items():
        for field in dataclasses.fields(table):
            if prefix or field.name not in inner:
                assert f"`{prefix}{field.name}`" in page, f"{prefix}{field.name}"
