import dataclasses
import json

import pytest
from PIL import Image

from adapters.published import PRESETS
from demo import batch
from qformer import together
from qformer.contracts import LoupeError, RegionError
from qformer.view import View


@pytest.fixture
def folder(tmp_path, image):
    for name in ("a.png", "b.png"):
        Image.fromarray(image.numpy()).save(tmp_path / name)
    mask = Image.new("L", (60, 40))
    mask.paste(255, (5, 5, 25, 20))
    mask.save(tmp_path / "mask.png")
    return tmp_path


@pytest.fixture
def ask(folder, tiny_assistant, capsys):
    """ask(lines) -> what came out, a dict a line."""

    def run(*lines):
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        (folder / "questions.jsonl").write_text("\n".join(texts))
        assert batch.run(str(folder / "questions.jsonl"), lambda: tiny_assistant) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_every_kind_of_region_is_answered_and_described(ask):
    regions = [
        {"points": [[10, 10, 1], [50, 30, 0]]},
        {"box": [5, 5, 30, 30]},
        {"mask": "mask.png"},
    ]
    (line,) = ask({"id": "x", "image": "a.png", "question": "which?", "regions": regions})
    assert line["id"] == "x"
    assert isinstance(line["answer"], str)
    assert line["seconds"] >= 0
    assert [set(one) for one in line["regions"]] == [{"box", "area", "score"}] * 3
    assert line["regions"][2] == {"box": [5, 5, 25, 20], "area": 300, "score": None}


def test_a_line_is_answered_as_the_same_question_alone(ask, tiny_assistant, image):
    wanted = {"image": "a.png", "question": "what is this?", "regions": [{"points": [[10, 10, 1]]}]}
    first, again = ask(wanted, wanted)
    view = tiny_assistant.encode(image)
    alone = view.ask("what is this?", [view.click(10, 10)])
    assert first["answer"] == again["answer"] == alone
    assert (first["id"], again["id"]) == (1, 2)


def test_answers_keep_the_order_of_the_lines_and_each_picture_is_encoded_once(ask, monkeypatch):
    encoded = []
    encode = View._encode
    monkeypatch.setattr(
        View, "_encode", lambda self, images: encoded.append(len(images)) or encode(self, images)
    )
    monkeypatch.setattr(batch, "TOGETHER", 4)
    lines = [{"id": i, "image": "ab"[i % 2] + ".png", "question": "what?"} for i in range(6)]
    assert [line["id"] for line in ask(*lines)] == [0, 1, 2, 3, 4, 5]
    assert encoded == [2]


def test_no_more_pictures_are_kept_than_said(ask, monkeypatch):
    monkeypatch.setattr(batch, "TOGETHER", 1)
    monkeypatch.setattr(batch, "KEPT", 1)
    lines = [{"id": i, "image": "ab"[i % 2] + ".png", "question": "what?"} for i in range(4)]
    found = ask(*lines)
    assert [line["answer"] for line in found[:2]] == [line["answer"] for line in found[2:]]


def test_a_line_says_how_its_answer_was_written(ask, tiny_assistant, monkeypatch):
    wanted = {"image": "a.png", "question": "what?"}
    (own,) = ask(wanted)
    assert own["decoding"] == dataclasses.asdict(tiny_assistant.config.decoding)
    assert own["preset"] is None
    changed = dataclasses.replace(tiny_assistant.config, decoding=PRESETS["vqa"])
    monkeypatch.setattr(tiny_assistant, "config", changed)
    (vqa,) = ask(wanted)
    assert vqa["preset"] == "vqa"
    assert vqa["decoding"]["beams"] == PRESETS["vqa"].beams


BAD = {
    "not json": "{",
    "not an object": "[1]",
    "no question": {"id": 7, "image": "a.png"},
    "no picture": {"id": 7, "image": "none.png", "question": "what?"},
    "empty question": {"id": 7, "image": "a.png", "question": " "},
    "long question": {"id": 7, "image": "a.png", "question": "why " * 500},
    "typo": {"id": 7, "image": "a.png", "question": "what?", "region": []},
    "regions of another type": {"id": 7, "image": "a.png", "question": "what?", "regions": {}},
    "region of another type": {"id": 7, "image": "a.png", "question": "what?", "regions": [3]},
    "outside": {"id": 7, "image": "a.png", "question": "?", "regions": [{"points": [[99, 1, 1]]}]},
    "label": {"id": 7, "image": "a.png", "question": "?", "regions": [{"points": [[1, 1, 5]]}]},
    "no area": {"id": 7, "image": "a.png", "question": "?", "regions": [{"box": [5, 5, 5, 9]}]},
    "short box": {"id": 7, "image": "a.png", "question": "?", "regions": [{"box": [5, 5, 9]}]},
    "no mask": {"id": 7, "image": "a.png", "question": "?", "regions": [{"mask": "none.png"}]},
    "empty": {"id": 7, "image": "a.png", "question": "?", "regions": [{}]},
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD.keys())
def test_a_bad_line_is_reported_and_the_run_goes_on(ask, line):
    good = {"id": "good", "image": "b.png", "question": "what?"}
    bad, answer = ask(line, good)
    assert set(bad) == {"id", "error"}
    assert "\n" not in bad["error"]
    assert bad["id"] == (line["id"] if isinstance(line, dict) else 1)
    assert answer["id"] == "good"
    assert "answer" in answer


def test_a_crash_on_one_line_does_not_end_the_run(ask, monkeypatch):
    plan = together._plan

    def crash(view, question, decoding):
        if question.text == "boom":
            raise RuntimeError("at 0x7f")
        return plan(view, question, decoding)

    monkeypatch.setattr(together, "_plan", crash)
    bad, good = ask({"image": "a.png", "question": "boom"}, {"image": "a.png", "question": "what?"})
    assert bad["error"] == "failed: RuntimeError"
    assert "answer" in good


def test_blank_lines_are_skipped_and_a_missing_file_is_one_error(ask, tiny_assistant, tmp_path):
    assert len(ask("", {"image": "a.png", "question": "what?"}, "  ")) == 1
    with pytest.raises(LoupeError, match="there is no file"):
        batch.run(str(tmp_path / "none.jsonl"), lambda: tiny_assistant)


def test_progress_goes_to_standard_error(folder, tiny_assistant, capsys):
    (folder / "q.jsonl").write_text('{"image": "a.png", "question": "what?"}\n{')
    batch.run(str(folder / "q.jsonl"), lambda: tiny_assistant)
    assert capsys.readouterr().err == "2/2 answered, 1 failed\n"


def test_a_mask_stands_alone(tiny_assistant, image):
    with pytest.raises(RegionError, match="stands alone"):
        batch.region(tiny_assistant.encode(image), {"mask": "m.png", "box": [1, 2, 3, 4]}, 1)
