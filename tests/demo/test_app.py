import re

from PIL import Image

from adapters import draw
from demo import gallery
from demo.app import ASSETS


def test_the_templates_hold_nothing_that_would_run():
    # gradio evaluates templates: "${...}" and "{{...}}" in one would be code.
    for template in ASSETS.glob("*.html"):
        text = template.read_text()
        assert not {"${", "{{", "`", "\\"} & {
            text[i : i + n] for i in range(len(text)) for n in (1, 2)
        }


def test_the_scripts_write_text_as_text_and_reach_nowhere():
    for script in ASSETS.glob("*.js"):
        text = script.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, f"{script.name} uses {word}"
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}


def test_the_scripts_are_read_in_one_sitting():
    for file in ASSETS.iterdir():
        assert len(file.read_text().splitlines()) < 450, file.name


def test_the_page_and_the_overlays_use_the_same_colours():
    script = (ASSETS / "common.js").read_text()
    block = script[script.index("PALETTE") : script.index("ICONS")]
    pairs = re.findall(r"\['(#\w{6})', '(#\w{6})'\]", block)
    numbers = range(1, len(draw.PALETTE) + 1)
    assert pairs == [(draw.css(draw.colour(n)), draw.css(draw.ink(n))) for n in numbers]


def test_every_example_that_ships_is_offered_with_its_set(tmp_path):
    Image.new("RGB", (400, 300)).save(tmp_path / "one.png")
    assert list(gallery.pictures(tmp_path)) == ["one.png"]
    offered = gallery.offered(gallery.examples())
    assert {one["set"] for one in offered} == {"photos", "paintings"}
    for one in offered:
        assert re.match("data:image/(png|jpeg);base64,", one["src"])
    shipped = [path for folder in gallery.SETS.values() for path in gallery.pictures(folder)]
    assert sorted(one["name"] for one in offered) == sorted(shipped)  # no two of one name


def test_the_described_examples_are_there():
    for entry in gallery.described():
        assert entry["file"] in gallery.pictures(gallery.EXAMPLES)
        assert {"click", "question", "answer"} <= entry.keys()


def test_photos_are_credited_wherever_they_go():
    folder = gallery.SETS["photos"]
    files = gallery.pictures(folder)
    assert {entry["file"] for entry in gallery.described(folder)} == set(files)
    paper = (folder / "ATTRIBUTION.md").read_text()
    for entry in gallery.described(folder):
        title = gallery.titled(files)[entry["file"]]
        assert entry["by"] in title
        assert entry["licence"] in title
        assert len(title) <= 400
        assert f"`{entry['file']}`" in paper
        assert bool(entry["terms"]) == (entry["licence"] != "public domain")
        with Image.open(files[entry["file"]]) as picture:
            assert max(picture.size) <= 640
    assert sum(path.stat().st_size for path in files.values()) < 300_000
