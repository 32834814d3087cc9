"""A run asks every model in every arm once, resumes, merges, and refuses what is not its own."""

import json
import shutil

import pytest
import torch

from adapters.build import build
from demo import cli
from qformer.contracts import LoupeError
from qformer.together import Question
from qformer.view import View
from train.eval.book import read_book
from train.eval.cli import main
from train.eval.models import AssistantModel


def run(*words):
    assert main([str(word) for word in words]) == 0


def scores(folder):
    return json.loads((folder / "scores.json").read_text())


def lines(folder):
    return (folder / "predictions.jsonl").read_text().splitlines()


def told(folder):
    """Every answer, without what may differ from run to run."""
    records = read_book(folder / "predictions.jsonl").records
    return sorted((r["id"], r["system"], r["answer"]) for r in records)


@pytest.fixture
def done(asked, tiny_model, tmp_path):
    out = tmp_path / "out"
    run("vqav2", "--data", asked, "--model", tiny_model, "--out", out)
    return out


def test_a_run_says_what_was_asked_of_whom_and_how_well_it_went(done, tiny_model):
    found = scores(done)
    assert list(found["systems"]) == ["majority", "loupe: question only", "loupe: picture"]
    majority = found["systems"]["majority"]["scores"]["VQA accuracy"]
    assert majority["value"] == pytest.approx(1.0)  # seven of ten say yes
    assert majority["low"] <= majority["value"] <= majority["high"]
    assert found["data"]["cases"] == 9
    assert len(found["data"]["sha256"]) == len(found["models"]["loupe"]["sha256"]) == 64
    assert found["models"]["loupe"]["preset"] == "the checkpoint's own"
    assert found["models"]["loupe"]["decoding"]["max_new_tokens"] == 8
    assert found["machine"]["peak_memory_mb"] > 0
    assert found["seconds"] > 0


def test_the_page_needs_nothing_from_elsewhere(done):
    page = (done / "page.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert page.count("data:image/") >= 1
    assert "sha256" in page


def test_region_tasks_have_all_baselines_and_sizes(coco, tiny_model, tmp_path):
    out = tmp_path / "out"
    run("coco-what", "--data", coco, "--model", tiny_model, "--out", out)
    found = scores(out)["systems"]
    arms = ["question only", "box crop", "blurred crop", "no region", "regions"]
    assert list(found) == ["majority", *(f"loupe: {arm}" for arm in arms)]
    assert found["majority"]["strata"].keys() == {"small region"}
    assert found["majority"]["scores"]["accuracy"]["items"] == 6
    page = (out / "page.html").read_text()
    assert "Confusion" in page
    assert "<td>chance</td><td></td><td>0.333</td>" in page
    assert "data:image/png" in page


def test_a_picture_is_encoded_once_for_all_arms_that_show_it(
    coco, tiny_model, tmp_path, monkeypatch
):
    read, encode = [], View.encode_together
    monkeypatch.setattr(
        View, "encode_together", lambda views: read.append(len(views)) or encode(views)
    )
    run("coco-what", "--data", coco, "--model", tiny_model, "--out", tmp_path / "out")
    assert read == [
        1,
        6,
        6,
        3,
        0,
    ]  # grey, box crops, blurred crops, pictures, the same with regions
    kept = AssistantModel("loupe", build(tiny_model), False, None)
    images = [torch.zeros(8, 8, 3, dtype=torch.uint8) for _ in range(3)]
    for image in images:
        kept.write([Question(image, "what?")] * 2, "vqa")
    assert read[5:] == [1, 1, 1]
    kept.write([Question(images[0], "what?")], "vqa")
    assert read[-1] == 1  # forgotten: no more than the last call's pictures are held


def test_a_killed_run_goes_on_where_it_stopped(asked, tiny_model, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = ["vqav2", "--data", asked, "--model", tiny_model, "--batch", "2"]
    run(*words, "--out", whole)
    run(*words, "--out", broken)
    kept = lines(broken)[: 1 + 9 + 7]  # the header, the cases, seven answers
    (broken / "predictions.jsonl").write_text("\n".join([*kept, '{"id": "q1']))
    from train.eval import run as module

    seen = []
    ask = module.ask
    monkeypatch.setattr(
        module, "ask", lambda *args: seen.extend(c.id for c, _ in args[3]) or ask(*args)
    )
    run(*words, "--out", broken)
    assert told(broken) == told(whole)
    assert len(seen) == 2 * 9 - 7  # two arms, nine cases, less what was kept


@pytest.mark.parametrize("without_data", [False, True])
def test_shards_put_together_are_the_whole_run(asked, tiny_model, tmp_path, without_data):
    words = ["vqav2", "--data", asked, "--model", tiny_model]
    run(*words, "--out", tmp_path / "whole")
    parts = [tmp_path / f"part{number}" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        run(*words, "--out", part, "--shard", f"{number}/2")
    if without_data:
        shutil.rmtree(asked.parent)
    run("--merge", *parts, "--out", tmp_path / "merged")
    assert told(tmp_path / "merged") == told(tmp_path / "whole")
    whole, merged = (scores(tmp_path / name) for name in ("whole", "merged"))
    assert merged["data"]["sha256"] == whole["data"]["sha256"]
    for name, one in whole["systems"].items():
        assert merged["systems"][name]["scores"] == one["scores"]
        assert merged["systems"][name]["strata"] == one["strata"]
    page = (tmp_path / "merged" / "page.html").read_text()
    assert "cases of loupe" in page
    assert ("data:image/" in page) is not without_data
    with pytest.raises(LoupeError, match="missing: 2/2"):
        main(["--merge", str(parts[0]), "--out", str(tmp_path / "half")])


def test_two_runs_compare_with_a_paired_test(done, asked, capsys):
    shutil.rmtree(asked.parent)  # neither the data nor the pictures are needed
    named = f"{done}#majority"
    run("--compare", named, f"{done}#loupe: picture", "--json")
    found = json.loads(capsys.readouterr().out)["VQA accuracy"]
    assert found["first"] == pytest.approx(1.0)
    assert found["difference"] == pytest.approx(found["first"] - found["second"])
    assert found["low"] <= found["difference"] <= found["high"]
    assert 0 < found["p"] <= 1
    with pytest.raises(LoupeError, match="has no 'nobody'"):
        main(["--compare", f"{done}#nobody", named])


def test_answers_made_elsewhere_are_scored_as_a_run_is(asked, tmp_path, capsys):
    results = [{"question_id": f"q{n}{i}", "answer": "Yes."} for n in (1, 2, 3) for i in range(3)]
    results[0] = {"question_id": "stranger", "answer": "yes"}
    file = tmp_path / "results.json"
    file.write_text(json.dumps([*results, results[1], "nothing", {"question_id": "q10"}]))
    run("vqav2", "--data", asked, "--predictions", file)
    found = scores(tmp_path / "results-scores")["systems"]["results"]
    assert found["scores"]["VQA accuracy"]["value"] == pytest.approx(8 / 9)
    assert found["errors"] == 1
    notes = capsys.readouterr().err
    for note in (
        "2 lines hold no id with an answer", "1 ids are not of these data",
        "1 cases have no answer",
    ):  # fmt: skip
        assert note in notes
    lines = file.with_name("lines.jsonl")
    lines.write_text("\n".join([*map(json.dumps, results[1:]), '{"question_id": "q1']))
    run("vqav2", "--data", asked, "--predictions", lines)
    assert "1 lines hold no id with an answer" in capsys.readouterr().err
    found = scores(tmp_path / "lines-scores")["systems"]["lines"]
    assert found["scores"]["VQA accuracy"]["value"] == pytest.approx(8 / 9)


def test_answers_made_elsewhere_are_read_as_a_model_that_writes_is(coco, tmp_path):
    lines = [
        {"image": "images/1.png", "dataset": "A-OKVQA", "question_id": n, "question": "what?",
         "answers": ["dog"], "choices": ["cat", "dog"], "correct_choice_idx": 1}
        for n in range(4)
    ]  # fmt: skip
    (coco / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    file = tmp_path / "answers.json"
    file.write_text(json.dumps({"0": "B", "1": "Dog.", "2": "dog, I think", "3": "a"}))
    run("aokvqa-choice", "--data", coco / "asked.jsonl", "--predictions", file)
    found = scores(tmp_path / "answers-scores")["systems"]["answers"]
    assert found["scores"]["accuracy"]["value"] == 0.75
    line = {"image": "images/1.png", "dataset": "refcoco", "expressions": ["dog"],
            "bbox_xywh": [0, 0, 9, 9]}  # fmt: skip
    (coco / "refer.jsonl").write_text(json.dumps(line))
    with pytest.raises(LoupeError, match="scored by areas"):
        main(["refer", "--data", str(coco / "refer.jsonl"), "--predictions", str(file)])


def test_predictions_of_other_data_or_another_model_are_refused(asked, done, tmp_path):
    with pytest.raises(LoupeError, match="not of embedded"):
        main(["vqav2", "--data", str(asked), "--predictions", str(done / "predictions.jsonl"),
              "--model", "embedded"])  # fmt: skip
    with pytest.raises(LoupeError, match=r"another task .*give the task"):
        main(["okvqa", "--data", str(asked), "--split", "VQAv2", "--predictions",
              str(done / "predictions.jsonl")])  # fmt: skip
    file = tmp_path / "others.jsonl"
    file.write_text('{"id": "someone else\'s", "answer": "yes"}')
    with pytest.raises(LoupeError, match="answers nothing of these data"):
        main(["vqav2", "--data", str(asked), "--predictions", str(file)])
    with pytest.raises(LoupeError, match=r"another model .*give another --out, or delete it"):
        main(["vqav2", "--data", str(asked), "--out", str(done), "--model", "embedded"])


def test_what_is_wrong_with_the_data_is_counted_and_the_rest_goes_on(
    coco, tiny_model, tmp_path, capsys
):
    values = json.loads((coco / "instances.json").read_text())
    empty = {"size": [48, 64], "counts": [48 * 64]}
    values["annotations"] += [
        {
            "id": 90,
            "image_id": 2,
            "category_id": 2,
            "segmentation": empty,
        },
        {"id": 91, "image_id": 4, "category_id": 2, "bbox": [1, 1, 9, 9]},
        {"id": 92, "image_id": 1, "category_id": 99, "bbox": [1, 1, 9, 9]},
        {"id": 93, "image_id": 99, "category_id": 2, "bbox": [1, 1, 9, 9]},
        {"id": 94, "image_id": 1, "category_id": 2, "bbox": [9, 9, 0, 4]},
        {"id": 95, "image_id": 5, "category_id": 2, "bbox": [1, 1, 9, 9]},
        values["annotations"][0],
    ]
    whole = (coco / "images" / "1.png").read_bytes()
    (coco / "images" / "cut.png").write_bytes(whole[: len(whole) // 2])
    values["images"] += [
        {"id": 4, "file_name": "lost.png"}, {"id": 5, "file_name": "cut.png"},
        values["images"][2],
    ]  # fmt: skip
    (coco / "instances.json").write_text(json.dumps(values))
    out = tmp_path / "out"
    run("coco-what", "--data", coco, "--model", tiny_model, "--out", out)
    left = scores(out)["data"]["left_out"]
    reasons = " ".join(left)
    assert "is empty" in reasons
    assert "a box has no area" in reasons
    unseen = left["a picture is missing or cannot be read"]
    assert unseen["cases"] == 2
    assert "lost.png" in unseen["examples"][0]
    assert "cut.png is damaged" in unseen["examples"][1]
    assert "a picture's id comes twice" in reasons
    assert "category is not listed" in reasons
    assert "picture is not listed" in reasons
    assert "an annotation's id comes twice" in reasons
    assert scores(out)["data"]["cases"] == 6
    assert "left out" in capsys.readouterr().err


def test_captions_in_any_script_are_scored(coco, tiny_model, tmp_path):
    values = json.loads((coco / "captions.json").read_text())
    for annotation, text in zip(
        values["annotations"], ("一只狗", "собака", "", "🐕"), strict=False
    ):
        annotation["caption"] = text
    (coco / "captions.json").write_text(json.dumps(values))
    out = tmp_path / "out"
    run("captions", "--data", coco, "--model", tiny_model, "--out", out)
    found = scores(out)
    assert found["systems"]["loupe: picture"]["scores"]["CIDEr"]["value"] >= 0
    assert found["data"]["cases"] == 3
    assert any("empty" in reason for reason in found["data"]["left_out"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["coco-waht", "--data", "x"], "did you mean 'coco-what'"),
        (["vqav2"], "--data"),
        (["vqav2", "--data", "nowhere.json"], "no file"),
        ([], "name a task"),
        (["vqav2", "--data", "x", "--peer", "clip"], "KIND=WHERE"),
        (["vqav2", "--data", "x", "--peer", "clop=y"], "did you mean 'clip'"),
        (["vqav2", "--data", "x", "--limit", "-1"], "--limit"),
        (["vqav2", "--data", "x", "--sentence-encoder", "y"], "or ask coco-what"),
        (["coco-retrieval", "--data", "x"], "compares no vectors"),
        (["coco-retrieval", "--data", "x", "--predictions", "pyproject.toml"], "no --predictions"),
    ],
)
def test_what_a_user_can_put_right_is_said_in_a_line(words, message, capsys):
    named = ["--model", "paintings"] if words else []  # no note of the photos' model
    assert cli.main(["eval", *words, *named]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_tasks_and_peers_are_listed(capsys):
    run("--list")
    listed = capsys.readouterr().out
    assert "region-pope" in listed
    assert cli.main(["peers", "--json"]) == 0
    peers = json.loads(capsys.readouterr().out)
    assert peers["clip"]["class"] == "CLIPModel"
    assert "server" in peers


def test_without_a_model_the_default_is_asked_and_said_where_it_is_not_the_photos(
    capsys, monkeypatch
):
    monkeypatch.setattr(
        "train.eval.commands.default_model", lambda: ("paintings", "no photos: why")
    )
    assert cli.main(["eval", "vqav2", "--data", "x", "--peer", "clip"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == "loupe: note: no photos: why"
