"""The chat in a real Chromium: load, click, ask, read the answer."""

import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from demo import page
from demo.serve.server import launch
from qformer.view import View

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EMBEDDED = import_module("adapters.build").EMBEDDED
WAIT = 60_000  # milliseconds: CI machines are slow

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("NO BROWSER HERE: the chat was not tested in one; install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


class Visitor:
    """Someone at the page. Waits on the page's own counters, never on the clock."""

    def __init__(self, browser, url: str):
        self.complaints: list[str] = []  # errors on the console, requests off this machine
        self.page = browser.new_page(viewport={"width": 1360, "height": 860})
        self.page.set_default_timeout(WAIT)
        self.page.on("console", lambda m: m.type == "error" and self.complaints.append(m.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._check)
        self.page.goto(url)
        self.page.wait_for_selector(".lc[data-ready=true]")
        self.page.wait_for_selector(".lh-status[data-state=ready]")
        self.operations = 0

    def _check(self, request) -> None:
        if not request.url.startswith(("http://127.0.0.1", "http://localhost", "data:", "blob:")):
            self.complaints.append(request.url)

    def settle(self) -> None:
        """Wait until the canvas has shown one more operation's outcome."""
        self.operations += 1
        self.page.wait_for_selector(f'.lc[data-acks="{self.operations}"]')

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Shares of the picture -> place on the page."""
        box = self.page.locator(".lc canvas").bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def choose(self, example: str) -> None:
        self.page.click(f'.lc-examples [data-example="{example}"]')
        self.settle()

    def click(self, x: float, y: float, **options) -> None:
        self.page.mouse.click(*self.at(x, y), **options)
        self.settle()

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self.page.mouse.move(*self.at(x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(x1, y1), steps=3)
        self.page.mouse.up()
        self.settle()

    def ask(self, question: str) -> str:
        """Type a question, press enter; the whole answer."""
        before = len(self.answers())
        self.page.fill("#loupe-ask textarea", question)
        self.page.press("#loupe-ask textarea", "Enter")
        self.page.wait_for_function(
            "n => document.querySelectorAll('#loupe-talk .bot.message').length > n", arg=before
        )
        self.page.wait_for_selector("#loupe-ask .submit-button")
        return self.answers()[-1]

    def answers(self) -> list[str]:
        return self.page.locator("#loupe-talk .bot.message").all_inner_texts()

    def chips(self) -> list[str]:
        return self.page.locator(".lc-name").all_inner_texts()


@pytest.fixture
def visit(browser, port) -> Iterator:
    """visit(build) -> a Visitor at a chat on that assistant."""
    opened = []

    def start(build) -> Visitor:
        server = launch(build, port=port)
        opened.append(server)
        visitor = Visitor(browser, server.local_url)
        opened.append(visitor.page)
        return visitor

    yield start
    for one in reversed(opened):
        one.close()


@pytest.fixture
def noise(tmp_path, image, monkeypatch) -> Path:
    """A picture, and the chat's only example."""
    Image.fromarray(image.numpy()).save(tmp_path / "noise.png")
    monkeypatch.setattr(page, "examples", lambda: {"noise.png": tmp_path / "noise.png"})
    return tmp_path / "noise.png"


def test_from_picture_to_answer(visit, tiny_assistant, image, noise):
    visitor = visit(lambda: tiny_assistant)
    visitor.choose("noise.png")
    visitor.click(10.5 / 60, 10.5 / 40)
    assert visitor.page.locator(".lq-about").inner_text().split() == ["Asking", "about", "1"]
    answer = visitor.ask("what is this?")
    view = tiny_assistant.encode(image)
    assert answer.split() == view.ask("what is this?", [view.click(10.5, 10.5)]).split()
    asked = visitor.page.locator("#loupe-talk .user.message")
    assert asked.locator("a[href='#region-1']").count() == 1
    assert asked.locator("img").evaluate("image => image.naturalWidth") == 60

    visitor.drag(0.1, 0.1, 0.5, 0.8)
    visitor.click(0.2, 0.2, button="right")
    assert visitor.chips() == ["1\nregion 1", "2\nregion 2"]
    pressed = visitor.page.locator(".lc-name[aria-pressed=true]")
    assert pressed.all_inner_texts() == ["2\nregion 2"]
    visitor.page.click(".lc-name >> nth=0")
    visitor.settle()
    assert pressed.count() == 2
    visitor.page.click("[aria-label='Delete region 1']")
    visitor.settle()
    visitor.click(0.9, 0.9)
    assert visitor.chips() == ["2\nregion 2", "3\nregion 3"]
    visitor.page.click("[data-act=clear]")
    visitor.settle()
    assert visitor.chips() == []
    assert visitor.complaints == []


def test_text_is_never_markup_and_a_bad_question_comes_back(visit, tiny_assistant, noise):
    visitor = visit(lambda: tiny_assistant)
    visitor.choose("noise.png")
    visitor.ask("<img src=x onerror=document.title='gone'> *a*")
    asked = visitor.page.locator("#loupe-talk .user.message")
    assert asked.inner_text().strip() == "<img src=x onerror=document.title='gone'> *a*"
    visitor.page.fill("#loupe-ask textarea", "why " * 400)
    visitor.page.press("#loupe-ask textarea", "Enter")
    visitor.page.wait_for_selector(".lq-note:not(:empty)")
    assert visitor.page.input_value("#loupe-ask textarea").startswith("why why")
    assert visitor.page.title() == "Loupe"
    assert visitor.complaints == []


def test_an_uploaded_picture_shows_upright_and_a_bad_file_is_said(
    visit, tiny_assistant, noise, tmp_path
):
    visitor = visit(lambda: tiny_assistant)
    exif = Image.Exif()
    exif[274] = 6
    Image.open(noise).save(tmp_path / "turned.jpg", exif=exif)
    visitor.page.set_input_files(".lc input[type=file]", tmp_path / "turned.jpg")
    visitor.settle()
    box = visitor.page.locator(".lc canvas").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(40 / 60, abs=0.02)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    visitor.page.set_input_files(".lc input[type=file]", tmp_path / "bad.png")
    visitor.settle()
    assert "not a picture" in visitor.page.locator(".lc-note.error").inner_text()
    visitor.click(0.5, 0.5)
    assert visitor.chips() == ["1\nregion 1"]
    assert visitor.complaints == []


def test_an_unfamiliar_picture_is_said_to_be_one(visit, tiny_assistant, noise, monkeypatch):
    monkeypatch.setattr(View, "familiar", False, raising=False)
    visitor = visit(lambda: tiny_assistant)
    visitor.choose("noise.png")
    (note,) = visitor.answers()
    assert "tiny random weights" in note
    assert "loupe chat --model FOLDER" in note


@pytest.mark.skipif(not EMBEDDED.is_dir(), reason="the embedded default's weights are not here")
def test_the_embedded_default_answers_right(visit):
    visitor = visit(import_module("adapters.build").build)
    described = page.described_examples()
    assert described, "demo/examples/examples.json names no example"
    for example in described:
        with Image.open(page.EXAMPLES / example["file"]) as picture:
            width, height = picture.size
        visitor.choose(example["file"])
        if example["click"]:
            x, y = example["click"]
            visitor.click((x + 0.5) / width, (y + 0.5) / height)
        assert visitor.ask(example["question"]).strip() == example["answer"]
    assert visitor.complaints == []
