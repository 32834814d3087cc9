"""A server that speaks OpenAI's chat form is a peer: what it is sent, what comes of its answers."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from PIL import Image

from adapters.peers import open_peer
from qformer.contracts import CheckpointError, LoupeError
from qformer.together import Question


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"data": [{"id": "some-model"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((asked, self.headers.get("Authorization")))
        text = asked["messages"][0]["content"][1]["text"]
        if "fail" in text:
            self.send_error(500)
        elif "odd" in text:
            self.answer({"no": "choices"})
        else:
            self.answer({"choices": [{"message": {"content": "a cat"}}]})

    def answer(self, values):
        body = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def peer_of(server, more=""):
    return open_peer("server", f"http://127.0.0.1:{server.server_port}/v1{more}")


def test_pictures_go_as_data_uris_and_answers_come_back(server, monkeypatch):
    monkeypatch.setenv("LOUPE_PEER_KEY", "secret")
    peer = peer_of(server)
    image = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8)
    told = peer.write([Question(image, "what is it?", choices=("a cat", "a dog"))], "vqa")
    assert told == ["a cat"]
    ((asked, key),) = server.seen
    assert key == "Bearer secret"
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("some-model", 10, 0)
    picture, text = asked["messages"][0]["content"]
    assert "a cat, a dog" in text["text"]
    content = base64.b64decode(picture["image_url"]["url"].split(",")[1])
    sent = torch.tensor(list(Image.open(io.BytesIO(content)).convert("RGB").tobytes()))
    assert sent.equal(image.flatten().to(sent))


def test_one_failure_does_not_cost_the_others_their_answers(server):
    image = torch.zeros(8, 8, 3, dtype=torch.uint8)
    texts = ("what?", "fail", "odd", "")
    told = peer_of(server, "#chosen").write([Question(image, text) for text in texts], "vqa")
    assert told[0] == told[3] == "a cat"
    assert isinstance(told[1], LoupeError)
    assert "500" in str(told[1])
    assert "another form" in str(told[2])
    assert {asked["model"] for asked, _ in server.seen} == {"chosen"}


def test_where_nothing_answers_is_said():
    with pytest.raises(CheckpointError, match="lists no models"):
        open_peer("server", "http://127.0.0.1:9/v1")
