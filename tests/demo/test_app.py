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


def test_every_example_that_ships_is_offered(tmp_path):
    Image.new("RGB", (400, 300)).save(tmp_path / "one.png")
    assert list(gallery.examples(tmp_path)) == ["one.png"]
    for offered in gallery.offered(gallery.examples()):
        assert offered["src"].startswith("data:image/png;base64,")


def test_the_described_examples_are_there():
    for entry in gallery.described():
        assert entry["file"] in gallery.examples()
        assert {"click", "question", "answer"} <= entry.keys()
