"""A model's place: its files are found and its settings read once, at the revision it was named."""

import json

import pytest

from adapters.registry import VISION_ENCODERS
from adapters.source import ModelSource
from qformer.contracts import CheckpointError


def test_settings_are_read_once_and_nobody_changes_anothers(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "size": 3}))
    source = ModelSource(tmp_path)
    source.settings().pop("size")
    (tmp_path / "config.json").unlink()
    assert source.settings() == {"model_type": "vit", "size": 3}
    assert (source.model_type, source.is_whole, source.part("vision_model")) == ("vit", False, None)


def test_a_whole_model_names_its_parts(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "instructblip"}))
    assert ModelSource(tmp_path).part("language_model") == "language_model"


def test_every_file_of_a_hub_id_is_asked_for_at_its_revision(monkeypatch, tmp_path):
    asked = []

    def cached_file(name, file, revision=None, **more):
        asked.append((name, file, revision))
        raise OSError("not here")

    monkeypatch.setattr("transformers.utils.cached_file", cached_file)
    source = ModelSource("someone/model", "abc123")
    assert source.file("config.json") is None
    with pytest.raises(CheckpointError, match="neither a folder here nor a model the hub gave"):
        VISION_ENCODERS["hf"](source)
    assert asked == [("someone/model", "config.json", "abc123")] * 2
    assert source.pinned["revision"] == "abc123"


def test_a_folder_is_named_so_that_it_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert ModelSource("mine").absolute == str(tmp_path / "mine")
    assert ModelSource("someone/model").absolute == "someone/model"
