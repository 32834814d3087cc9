import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from demo import cli
from demo.commands import common
from demo.session import Session

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def port():
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """One a file: while its driver is there an event loop runs, and asyncio.run is refused to the
    files that the same process tests next."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("NO BROWSER HERE: the chat was not tested in one; install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, port) -> Iterator:
    """visit(build) -> a Visitor at a chat on that assistant; visit() another at the same chat."""
    from visitor import Visitor

    from demo.serve.server import launch

    opened, urls = [], []

    def start(build=None, saves=None, chooser=None, settle=None, **window) -> Visitor:
        if build is not None:
            server = launch(build, port=port, saves=saves, chooser=chooser, settle=settle)
            opened.append(server)
            urls.append(server.local_url)
        visitor = Visitor(browser, urls[-1], **window)
        opened.append(visitor.context)
        return visitor

    yield start
    for one in reversed(opened):
        one.close()


@pytest.fixture
def noise(tmp_path, image, monkeypatch) -> Path:
    """A picture, and the chat's only example."""
    from demo import gallery

    Image.fromarray(image.numpy()).save(tmp_path / "noise.png")
    monkeypatch.setattr(gallery, "examples", lambda: {"noise.png": tmp_path / "noise.png"})
    return tmp_path / "noise.png"


@pytest.fixture
def session(tiny_assistant, image):
    made = Session(lambda: tiny_assistant)
    made.open(image)
    return made


@pytest.fixture
def loupe(tiny_assistant, monkeypatch, capsys):
    """loupe("ask", ...) -> exit code, standard output, standard error; on the tiny assistant."""
    monkeypatch.setattr(common, "assistant_of", lambda args: tiny_assistant)
    monkeypatch.setattr("adapters.defaults.default_model", lambda: ("paintings", ""))

    def run(*words):
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def picture(tmp_path, image):
    Image.fromarray(image.numpy()).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"
