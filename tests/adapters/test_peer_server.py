"""A server that speaks OpenAI's chat form is a peer: what it is sent, what comes of its answers."""

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from PIL import Image

from adapters.peers import open_peer
from adapters.peers.server import pause
from qformer.contracts import CheckpointError, LoupeError
from qformer.together import Question
from train.eval.cli import main


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"data": [{"id": "some-model"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((asked, self.headers.get("Authorization")))
        text = asked["messages"][0]["content"][1]["text"]
        if "busy" in text and len(self.server.seen) < 3:
            self.send_response(503)
            self.send_header("Retry-After", "7")
            self.end_headers()
        elif "fail" in text:
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


def test_a_busy_server_is_asked_again(server, monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    image = torch.zeros(8, 8, 3, dtype=torch.uint8)
    assert peer_of(server).write([Question(image, "busy")], "vqa") == ["a cat"]
    assert (waited, len(server.seen)) == ([7, 7], 3)
    assert [pause(None, tried) for tried in (1, 2, 9)] == [1, 2, 60]


def test_a_server_stands_in_a_run_as_other_peers_do(server, tmp_path):
    lines = [
        {"image": "1.png", "dataset": "VQAv2", "question_id": n, "question": text,
         "answers": ["a cat"] * 10}
        for n, text in enumerate(("what?", "fail"))
    ]  # fmt: skip
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "1.png")
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    url = f"http://127.0.0.1:{server.server_port}/v1"
    words = ["--no-model", "--peer", f"server={url}", "--out", str(tmp_path / "out")]
    data = ["--data", str(tmp_path / "asked.jsonl"), "--images", str(tmp_path / "images")]
    assert main(["vqav2", *data, *words]) == 0
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    one = found["systems"]["server: picture"]
    assert (one["scores"]["VQA accuracy"]["value"], one["errors"]) == (0.5, 1)
    about = found["models"]["server"]
    assert (about["kind"], about["model"], about["served"]) == ("server", url, "some-model")


def test_where_nothing_answers_is_said():
    with pytest.raises(CheckpointError, match="lists no models"):
        open_peer("server", "http://127.0.0.1:9/v1")
