"""The two defaults: their names, which is opened where none is named, and why not the other."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from adapters import defaults, packages
from adapters.build import build, find, own_segmenter
from adapters.checkpoint import list_files, load_config, write_manifest
from adapters.defaults import (
    PAINTINGS,
    PHOTOS,
    default_model,
    default_named,
    folder_of,
    package_parts,
)
from demo import models
from demo.cli import main, parse
from demo.commands import common
from demo.commands.chat import chooser_of, settled
from qformer.contracts import CheckpointError
from train.eval.models import model_files, provenance
from train.parts import from_folder, planned_parts, start_folder
from train.recipe import StartConfig


@pytest.fixture
def photos(tiny_folder, tmp_path, monkeypatch):
    """A photos' model whose language model a package carries, which is set up."""
    folder = tmp_path / "photos" / "loupe"
    shutil.copytree(tiny_folder("loupe").parent, folder.parent)
    config = json.loads((folder / "config.json").read_text())
    language = (folder / config["language"]["path"]).resolve()
    config["language"]["path"] = "package:tiny"
    (folder / "config.json").write_text(json.dumps(config))
    write_manifest(folder)
    package = packages.Package("tiny-llm", "1.0", "f", "0" * 64, 1, "MIT", "it", 10**6, shutil.copy)
    monkeypatch.setattr(packages, "PACKAGES", {"tiny": package})
    monkeypatch.setenv("LOUPE_HOME", str(tmp_path / "home"))
    part = packages.cache_folder() / "tiny"
    shutil.copytree(language, part)
    (part / packages.ORIGIN).write_text(json.dumps(package.origin))
    list_files(part, [file.name for file in part.iterdir()])
    default = dataclasses.replace(defaults.DEFAULTS[PHOTOS], folder=folder)
    monkeypatch.setitem(defaults.DEFAULTS, PHOTOS, default)
    return folder


@pytest.fixture
def not_set_up(photos):
    shutil.rmtree(packages.cache_folder())


def test_the_defaults_have_names_of_which_one_was_another():
    assert default_named("embedded") == default_named("paintings") == PAINTINGS
    assert default_named("photos") == PHOTOS
    assert default_named("else") is default_named("adapters/photos") is None
    assert folder_of("embedded") == folder_of("paintings") == start_folder("embedded")
    assert find("embedded") == find("paintings")
    assert (models.PHOTOS, models.PAINTINGS) == (PHOTOS, PAINTINGS)  # told twice: it imports little


def test_photos_are_opened_where_its_parts_are_set_up(photos, image, caplog):
    assert default_model() == (PHOTOS, "")
    view = build().encode(image)
    theirs = build(photos).encode(image)
    assert view.ask("what is this?") == theirs.ask("what is this?")
    assert not caplog.records


def test_else_paintings_and_a_line_says_why_and_what_to_do(not_set_up, caplog, capsys):
    name, why = default_model()
    assert name == PAINTINGS
    assert "tiny-llm 1.0) is not set up here: run `loupe setup photos`" in why
    assert build().config.domain == build("paintings").config.domain
    assert [record.getMessage() for record in caplog.records] == [why]
    args = parse(["ask", "x.png", "why?"])
    assert [common.model_of(args), common.model_of(args), args.model] == 3 * [PAINTINGS]
    assert capsys.readouterr().err == f"loupe: note: {why}\n"
    with pytest.raises(CheckpointError, match="not set up here: run `loupe setup photos`"):
        build("photos")


def test_without_the_photos_folder_the_line_says_so(photos):
    shutil.rmtree(photos)
    assert default_model()[0] == PAINTINGS
    assert "loupe is missing: check the project out again" in default_model()[1]
    with pytest.raises(CheckpointError, match="is missing: check the project out again"):
        find("photos")


def test_a_damaged_part_opens_paintings(photos):
    file = next((packages.cache_folder() / "tiny").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    name, why = default_model()
    assert name == PAINTINGS
    assert "is damaged" in why
    assert "loupe setup photos" in why


def test_the_chat_says_which_it_opens_and_lists_both(photos, capsys):
    assert settled(parse(["chat"])) == (PHOTOS, "")
    assert settled(parse(["chat", "--model", "embedded"])) == (PAINTINGS, "")
    rows = {row["model"]: row for row in chooser_of(parse(["chat"])).choices()["models"]}
    assert list(rows)[:2] == [PHOTOS, PAINTINGS]
    for name in (PHOTOS, PAINTINGS):
        assert rows[name]["suits"]
        assert rows[name]["licence"]
        assert rows[name]["segmenter"] is None
    # the package's parameters count, set up or not
    assert rows[PHOTOS]["memory"]["fp32"] > 4 * 10**6
    shutil.rmtree(packages.cache_folder())
    again = chooser_of(parse(["chat"])).choices()["models"][0]
    assert again["memory"] == rows[PHOTOS]["memory"]
    assert again["suits"] == rows[PHOTOS]["suits"] + ", after `loupe setup photos`"
    name, why = settled(parse(["chat"]))
    assert name == PAINTINGS
    assert capsys.readouterr().err == f"loupe: note: {why}\n"


def test_a_segmenter_is_opened_without_the_rest_of_its_model(photos, not_set_up, image):
    with pytest.raises(CheckpointError, match="not set up"):
        own_segmenter("photos")
    own = own_segmenter(photos)  # of whose parts the language model alone is not there
    whole = build("paintings").segmenter
    assert type(own_segmenter("paintings")) is type(whole)
    assert own.encode(image) is not None
    assert own_segmenter("model.pth") is None


def test_a_package_stays_one_where_a_checkpoint_is_written_back(photos, tmp_path):
    named = planned_parts(SimpleNamespace(start=StartConfig(checkpoint="photos"), stage="stage2"))
    assert named["language"].path == "package:tiny"
    assert from_folder(named["language"], tmp_path).path == "package:tiny"
    assert load_config(photos).language.path == "package:tiny"


def test_an_evaluation_hashes_the_package_too(photos):
    files = model_files(photos)
    assert any(packages.cache_folder() in file.parents for file in files)
    assert provenance("embedded") == provenance("paintings")


def test_doctor_looks_at_both(photos, capsys):
    main(["doctor"])
    text = capsys.readouterr().out
    assert "photos weights" in text
    assert "paintings weights" in text
    assert torch.__version__ in text


def test_a_part_that_a_part_names_counts_too(photos, tmp_path):
    assert package_parts(photos) == ["tiny"]
    vision = (photos / json.loads((photos / "config.json").read_text())["vision"]["path"]).resolve()
    page = vision / "config.json"
    page.write_text(json.dumps(json.loads(page.read_text()) | {"trunk": "package:trunk"}))
    assert package_parts(photos) == ["tiny", "trunk"]
    assert default_model()[0] == PAINTINGS
