"""`loupe data check`."""

import json
import shutil

import pytest

from qformer.contracts import LoupeError
from train.data.inspect import main


def test_good_data_are_counted(little_data, capsys):
    assert main(["check", "folder", str(little_data)]) == 0
    text = capsys.readouterr().out
    assert "24 samples of 6 pictures: 12 captions, 18 questions, 6 dialogues, 18 regions" in text
    assert "6 pictures were opened" in text
    assert "nothing is bad" in text


def test_bad_data_are_counted_by_reason_and_fail(little_data, tmp_path, capsys):
    folder = tmp_path / "bad"
    shutil.copytree(little_data, folder)
    (folder / "images" / "0.png").unlink()
    row = {"image": "1.png", "text": "x", "regions": [{"box": [90, 90, 99, 99]}]}
    with (folder / "data.jsonl").open("a") as file:
        file.write("\n" + json.dumps(row) + "\nnot json")
    assert main(["check", "folder", str(folder), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == 25
    assert told["bad"] == 3
    reasons = " / ".join(told["reasons"])
    for part in ("there is no file", "outside its picture", "not a JSON object"):
        assert part in reasons


def test_the_page_shows_regions_and_the_tokens_that_carry_loss(
    little_data, tmp_path, tiny_folder, capsys
):
    page = tmp_path / "look.html"
    model = str(tiny_folder("loupe"))
    assert main(["check", "folder", str(little_data), "--page", str(page), "--model", model]) == 0
    text = page.read_text()
    assert text.count("data:image/") == 24
    assert '<span class="soft">region 2 ×4</span>' in text
    assert '<span class="learned">end</span>' in text
    told = [line for line in text.split('<div class="turn">') if "what colour?" in line]
    assert len(told) == 6
    question, answer = told[0].split('<span class="learned">', 1)
    assert "learned" not in question
    assert "what colour?" not in answer


def test_a_recipe_is_looked_at_as_it_words_its_data(recipe_of, tmp_path, capsys):
    recipe_of("instruct")
    page = tmp_path / "look.html"
    assert main(["check", str(tmp_path / "recipe.toml"), "--page", str(page)]) == 0
    assert "48 samples of 6 pictures" in capsys.readouterr().out
    assert "picture ×4" in page.read_text()


def test_wrong_calls_are_answered_in_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", "folder"])
    assert stop.value.code == 2
    with pytest.raises(LoupeError, match="did you mean 'folder'"):
        main(["check", "foldr", "x"])
