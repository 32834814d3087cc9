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


def test_notes_are_counted_shown_and_green_where_the_recipe_learns_them(
    recipe_of, little_data, tmp_path, capsys
):
    page, file = tmp_path / "look.html", tmp_path / "recipe.toml"
    recipe_of("instruct")
    plain = file.read_text()
    assert main(["check", str(file), "--page", str(page)]) == 0
    assert "; 12 questions have notes;" in capsys.readouterr().out
    assert '<div class="turn">notes: green</div>' in page.read_text()
    file.write_text(plain + "[notes]\n")
    assert main(["check", str(file), "--page", str(page)]) == 0
    assert 'notes: <span class="learned">green</span>' in page.read_text()


def test_notes_that_do_not_fit_are_bad_unless_the_recipe_gives_more_soft_tokens(
    recipe_of, little_data, tmp_path, capsys
):
    file, words = tmp_path / "recipe.toml", " ".join(["red"] * 20)
    rows = [json.loads(line) for line in (little_data / "data.jsonl").read_text().splitlines()]
    long = tmp_path / "long.jsonl"
    lines = [json.dumps({**row, "notes": words} if "notes" in row else row) for row in rows]
    long.write_text("\n".join(lines))
    recipe_of("instruct")
    plain = file.read_text().replace(
        f'path = "{little_data}"', f'path = "{long}"\nimages = "{little_data / "images"}"'
    )
    file.write_text(plain + "[notes]\n")
    assert main(["check", str(file), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["bad"], told["noted"]) == (12, 12)
    assert "set start.queries" in next(iter(told["reasons"]))
    file.write_text(plain.replace("[start]", "[start]\nqueries = 80") + "[notes]\n")
    assert main(["check", str(file), "--json"]) == 0


def test_wrong_calls_are_answered_in_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["check", "folder"])
    assert stop.value.code == 2
    with pytest.raises(LoupeError, match="did you mean 'folder'"):
        main(["check", "foldr", "x"])
