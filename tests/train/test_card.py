"""What --push would upload."""

import json

import pytest

from qformer.contracts import LoupeError
from train.card import push, write_card
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


class Hub:
    """In place of the hub: keeps what it is given, or refuses."""

    def __init__(self, refuses: Exception | None = None):
        self.refuses, self.calls = refuses, []

    def create_repo(self, repository, exist_ok):
        if self.refuses:
            raise self.refuses
        self.calls.append(("create", repository, exist_ok))

    def upload_folder(self, repo_id, folder_path):
        self.calls.append(("upload", repo_id, folder_path))
        return f"https://hub.example/{repo_id}"


def test_a_push_makes_the_repository_and_uploads_the_folder(monkeypatch, tmp_path):
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    assert push(tmp_path, "someone/mine") == "https://hub.example/someone/mine"
    assert hub.calls == [("create", "someone/mine", True), ("upload", "someone/mine", tmp_path)]


def test_a_push_that_fails_says_where_the_folder_is_and_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub(ConnectionError("no network")))
    with pytest.raises(LoupeError, match=r"\(ConnectionError\).*is ready.*hf auth login") as caught:
        push(tmp_path, "someone/mine")
    assert str(tmp_path) in str(caught.value)
