"""What --push would upload."""

import json

import pytest

from qformer.contracts import LoupeError
from train.card import write_card
from train.loop import fit
from train.runs import Training


def test_nothing_frozen_is_uploaded_and_the_card_tells_all(recipe_of, tmp_path):
    recipe = recipe_of("instruct", "lora.rank=4")
    training = Training(recipe, lambda line: None)
    run, ready = tmp_path / "run", tmp_path / "ready"
    fit(training, recipe.loop, run, lambda line: None)
    training.keep(run / "checkpoint")
    with pytest.raises(LoupeError, match="the vision is a folder on this machine"):
        write_card(recipe, tmp_path / "recipe.toml", run, ready)

    file = run / "checkpoint" / "config.json"
    settings = json.loads(file.read_text())
    for name in ("vision", "language", "tokenizer"):
        settings[name]["path"] = f"someone/{name}"
    file.write_text(json.dumps(settings))
    write_card(recipe, tmp_path / "recipe.toml", run, ready)
    files = {path.relative_to(ready).as_posix() for path in ready.rglob("*") if path.is_file()}
    assert files == {
        "README.md", "config.json", "manifest.json", "model.safetensors",
        "lora/adapter_config.json", "lora/adapter_model.safetensors",
    }  # fmt: skip
    text = (ready / "README.md").read_text()
    assert "| language | someone/language | main | see its page |" in text
    assert "- folder: `" in text
    assert "- right: " in text
    assert 'stage = "instruct"' in text
    assert "base_model:\n- someone/vision" in text
