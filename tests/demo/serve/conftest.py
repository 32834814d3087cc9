import base64
import io

import pytest
from PIL import Image

from demo.serve.limits import Limits
from demo.serve.server import launch


@pytest.fixture(scope="session")
def served(tiny_assistant):
    """A server on the tiny assistant, that lasts as long as the tests."""
    server = launch(lambda: tiny_assistant, "tiny", port=0, limits=Limits(queue=8))
    wait_until_ready(server)
    yield server
    server.close()


def wait_until_ready(server) -> None:
    """The model is loaded, or has failed."""
    server.loader.wait()


def png(image) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def url(image) -> str:
    """The picture of noise as a data URL."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


@pytest.fixture
def messages(url):
    """messages("what is this?") -> one message of the user, with the picture."""

    def made(question, **more):
        picture = {"type": "image_url", "image_url": {"url": url}}
        content = [picture, {"type": "text", "text": question}]
        return [{"role": "user", "content": content, **more}]

    return made
