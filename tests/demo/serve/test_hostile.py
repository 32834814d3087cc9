"""What an attacker sends: each gets a typed refusal, opens no file, reaches no other host, and
leaves the server answering as before."""

import base64
import http.client
import io
import json
import struct
import sys
import zlib
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image

from adapters.rle import encode_rle

SECRET = "/etc/passwd"
WATCH = SimpleNamespace(on=False, seen=[])
LOCAL = ("127.0.0.1", "::1", "localhost", None)


def audit(event, arguments):
    """Python's own account of what is opened and who is called; it cannot be taken away again."""
    if not WATCH.on:
        return
    if event == "open" and "passwd" in str(arguments[0]):
        WATCH.seen.append(f"opened {arguments[0]}")
    elif event == "socket.connect" and arguments[1][0] not in LOCAL:
        WATCH.seen.append(f"connected to {arguments[1]}")
    elif event == "socket.getaddrinfo" and arguments[0] not in LOCAL:
        WATCH.seen.append(f"looked up {arguments[0]}")
    elif event in ("subprocess.Popen", "os.system"):
        WATCH.seen.append(f"started {arguments[0]}")


sys.addaudithook(audit)


@pytest.fixture(autouse=True)
def harmless(served):
    """Nothing is opened, called or started, and the server is as it was."""
    WATCH.seen.clear()
    WATCH.on = True
    yield
    WATCH.on = False
    assert WATCH.seen == []
    assert send(served, "GET", "/health")[0] == 200


def send(served, method, path, body=None, headers=None, chunked=False):
    """(status, what was said) of a request sent as it is, without a client's good manners."""
    place = urlsplit(served.local_url)
    line = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    if isinstance(body, dict | list):
        body = json.dumps(body).encode()
    if chunked:
        body = iter([body])
    try:
        line.request(
            method, path, body, {"content-type": "application/json", **(headers or {})},
            encode_chunked=chunked,
        )  # fmt: skip
        answer = line.getresponse()
        said = answer.read()
    except (BrokenPipeError, ConnectionResetError):  # refused before all was sent
        return 413, {}
    finally:
        line.close()
    try:
        return answer.status, json.loads(said)
    except ValueError:
        return answer.status, said.decode(errors="replace")


def data_url(content: bytes, kind="png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is this large."""

    def part(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", header)
        + part(b"IDAT", zlib.compress(bytes(1000)))
        + part(b"IEND", b"")
    )


def as_file(form: str, size=(60, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "white").save(buffer, form)
    return buffer.getvalue()


PICTURES = {
    "a path": SECRET,
    "a file address": f"file://{SECRET}",
    "this machine": "http://127.0.0.1:22/x.png",
    "a cloud's secrets": "http://169.254.169.254/latest/meta-data/",
    "a private network": "http://10.0.0.1/x.png",
    "somebody's site": "https://example.com/x.png",
    "an ftp site": "ftp://example.com/x.png",
    "nothing": "",
    "no picture in it": "data:image/png;base64,",
    "a page": data_url(b"<script>alert(1)</script>", "png"),
    "another kind of data": "data:text/html;base64,PGI+",
    "a drawing with an entity": data_url(
        f'<!DOCTYPE s [<!ENTITY x SYSTEM "file://{SECRET}">]><svg>&x;</svg>'.encode(), "svg+xml"
    ),
    "a program for a printer": data_url(as_file("EPS"), "eps"),
    "damaged text": "data:image/png;base64,!!!!",
    "a path in the text": f"data:image/png;base64,{SECRET}",
    "a picture cut short": data_url(as_file("PNG")[:60]),
    "a bomb of pixels": data_url(png_claiming(50_000, 50_000)),
    "a long thin bomb": data_url(png_claiming(2**31 - 1, 1)),
    "a header that lies": data_url(png_claiming(3000, 3000)),
    "more than 20 MB": "data:image/png;base64," + "A" * (29 << 20),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_hostile_picture_is_refused(served, name):
    status, said = send(served, "POST", "/v1/chat/completions", asking(PICTURES[name]))
    assert (status, said["error"]["code"]) == (400, "image")
    assert SECRET not in said["error"]["message"] or name in ("a path", "a file address")
    assert "0x" not in said["error"]["message"]  # no address in memory


def asking(url, question="what is this?", **more):
    picture = {"type": "image_url", "image_url": {"url": url}}
    content = [picture, {"type": "text", "text": question}]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **more}


def runs(counts, size=(40, 60)):
    return [{"mask": {"size": list(size), "counts": counts}}]


ALL = encode_rle(torch.ones(40, 60, dtype=torch.bool))["counts"]
REGIONS = {
    "a path": [{"mask": SECRET}],
    "a file address": [{"mask": f"file://{SECRET}"}],
    "a private address": [{"mask": "http://10.0.0.1/m.png"}],
    "a mask of another size": [{"mask": data_url(as_file("PNG", (61, 40)))}],
    "a mask that is a bomb": [{"mask": data_url(png_claiming(50_000, 50_000))}],
    "run lengths of a huge picture": runs("0" * 10, (60_000, 60_000)),
    "run lengths that overflow": runs("oooooooooo"),
    "run lengths that never end": runs("o" * 100),
    "run lengths too many": runs("0" * 3_000_000),
    "run lengths below nothing": runs("K" + ALL),
    "run lengths too short": runs(ALL[:1]),
    "run lengths in Chinese": runs("跑长"),
    "run lengths as a path": runs(SECRET),
    "run lengths of wrong types": [{"mask": {"size": "40x60", "counts": 5}}],
    "an unknown key": [{"__class__": "x"}],
    "a name": [{"name": "<script>alert(1)</script>", "box": [1, 1, 20, 20]}],
    "a thousand": [{"points": [[1, 1, 1]]}] * 1000,
    "a thousand points": [{"points": [[1, 1, 1]] * 1000}],
    "a point far away": [{"points": [[1e308, 1, 1]]}],
    "a negative point": [{"points": [[-5, 1, 1]]}],
    "a point of truth": [{"points": [[True, 1, 1]]}],
    "a point in words": [{"points": ["; rm -rf /"]}],
    "a label of 7": [{"points": [[1, 1, 7]]}],
    "a box turned over": [{"box": [20, 20, 1, 1]}],
    "a box of words": [{"box": ["a", "b", "c", "d"]}],
    "a box of five": [{"box": [1, 2, 3, 4, 5]}],
    "one inside out": {"points": []},
    "a text": "all of them",
    "a number": 7,
}


@pytest.mark.parametrize("name", REGIONS)
def test_a_hostile_region_is_refused(served, url, name):
    status, said = send(served, "POST", "/v1/chat/completions", asking(url, regions=REGIONS[name]))
    assert (status, said["error"]["type"]) == (400, "invalid_request_error")
    assert said["error"]["code"] in ("region", "image")
    assert len(said["error"]["message"]) < 400


BODIES = {
    "nothing": b"",
    "no JSON": b"<xml/>",
    "no number": b'{"temperature": NaN}',
    "a list": [],
    "deep nesting": b"[" * 100_000,
    "deep nesting that ends": b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "half a letter": b'{"model": "tiny", "messages": [{"role": "user", "content": "\xff"}]}',
    "a million messages": {"model": "tiny", "messages": [{"role": "user"}] * 100_000},
    "a role of its own": {"model": "tiny", "messages": [{"role": "root", "content": "x"}]},
    "a model elsewhere": {"model": "../../secret", "messages": []},
    "a thousand answers": {"model": "tiny", "n": 1000, "messages": []},
    "tools": {"model": "tiny", "tools": [{"type": "code_interpreter"}], "messages": []},
    "no text": {"model": "tiny", "messages": [{"role": "user", "content": [{"type": "text"}]}]},
}


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_request_is_refused(served, name):
    status, said = send(served, "POST", "/v1/chat/completions", BODIES[name])
    assert status in (400, 404)
    assert said["error"]["type"] == "invalid_request_error"
    assert len(said["error"]["message"]) < 400


@pytest.mark.parametrize("question", ["", " \n", "x" * 10_000_000, "\ud800", None, 5, ["x"]])
def test_a_hostile_question_is_refused(served, url, question):
    body = json.dumps(asking(url, question)).encode("utf-8", "surrogatepass")
    status, said = send(served, "POST", "/v1/chat/completions", body)
    assert status == 400
    assert said["error"]["type"] == "invalid_request_error"


PATHS = [
    ("GET", f"/gradio_api/file={SECRET}"),
    ("GET", f"/file={SECRET}"),
    ("GET", "/gradio_api/file=http://169.254.169.254/"),
    ("GET", "/gradio_api/proxy=http://169.254.169.254/"),
    ("GET", "/gradio_api/stream/a/1/2/playlist.m3u8"),
    ("GET", "/static/../../../../../../etc/passwd"),
    ("GET", "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd"),
    ("GET", "/assets//etc/passwd"),
    ("GET", "/assets/..%5c..%5cetc%5cpasswd"),
    ("GET", "/gradio_api/custom_component/1/client/component/../../x"),
    ("GET", "/gradio_api/deep_link?session_hash=x"),
    ("GET", "/gradio_api/vibe-code"),
    ("GET", "/gradio_api/openapi.json"),
    ("GET", "/gradio_api/token"),
    ("GET", "/monitoring"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("POST", "/login"),
    ("POST", "/gradio_api/run/predict"),
    ("POST", "/gradio_api/run/ask"),
    ("POST", "/gradio_api/api/ask"),
    ("POST", "/gradio_api/call/page_2"),
    ("POST", "/gradio_api/call/v2/ask"),
    ("POST", "/gradio_api/component_server"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/vibe-edit"),
    ("POST", "/health"),
    ("DELETE", "/v1/models/tiny"),
    ("PUT", "/"),
    ("OPTIONS", "/v1/chat/completions"),
    ("TRACE", "/"),
    ("GET", "/v1/files"),
    ("POST", "/v1/embeddings"),
    ("GET", "/mcp"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_what_is_not_served_is_not_there(served, method, path):
    body = {} if method == "POST" else None
    status, said = send(served, method, path, body)
    assert status in (404, 405)
    assert "root:" not in str(said)


def page(served):
    """The cookie of somebody who has opened the page."""
    place = urlsplit(served.local_url)
    line = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    line.request("GET", "/")
    cookie = line.getresponse().headers["set-cookie"].split(";")[0]
    line.close()
    return {"cookie": cookie}


def event(key, **more):
    return {"data": [], "fn_index": 0, "session_hash": key, **more}


def test_a_session_is_its_owners_alone(served):
    """A key overheard or replayed is worth nothing in another browser, or without one."""
    ann, bob = page(served), page(served)
    assert send(served, "POST", "/gradio_api/queue/join", event("annskey"), ann)[0] == 200
    for thief in (bob, {}, {"cookie": "loupe_visitor=annskey"}):
        for path, body in [
            ("/gradio_api/queue/join", event("annskey")),
            ("/gradio_api/cancel", {**event("annskey"), "event_id": "x"}),
            ("/gradio_api/reset", {**event("annskey"), "event_id": "x"}),
        ]:
            status, said = send(served, "POST", path, body, thief)
            assert (status, said["detail"][:12]) == (403, "this session")
        for path in ("queue/data?session_hash=annskey", "heartbeat/annskey"):
            assert send(served, "GET", f"/gradio_api/{path}", None, thief)[0] == 403
    assert send(served, "POST", "/gradio_api/queue/join", event("annskey"), ann)[0] == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"[]", b"[" * 10_000, {"data": []}, event(None), event([1]), event("x" * 100),
     event("../../x"), event("a", fn_index="x"), event("a", fn_index=9999),
     event("a", fn_index=-1), event("a", data="x"), event("a", fn_index=None)],
    ids=str,
)  # fmt: skip
def test_an_event_that_the_page_would_never_send_is_refused(served, body):
    status, _ = send(served, "POST", "/gradio_api/queue/join", body, page(served))
    assert 400 <= status < 500


def test_two_keys_in_one_stream_are_refused(served):
    path = "/gradio_api/queue/data?session_hash=a&session_hash=b"
    assert send(served, "GET", path)[0] == 400


@pytest.mark.parametrize(
    ("path", "megabytes"), [("queue/join", 9), ("upload", 65), ("call/ask", 33)]
)
def test_more_than_is_allowed_is_refused_before_it_is_read(served, path, megabytes):
    body = b"x" * (megabytes << 20)
    assert send(served, "POST", f"/gradio_api/{path}", body)[0] == 413
    expected = 411 if path == "upload" else 413
    assert send(served, "POST", f"/gradio_api/{path}", body, chunked=True)[0] in (expected, 413)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},  # a name that was bent to this address
        {"host": ""},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1.evil.example"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/v1/models", "/metrics", "/health"])
def test_another_sites_page_gets_nothing(served, headers, path):
    status, said = send(served, "GET", path, None, headers)
    assert status == 403
    assert "loupe_" not in str(said)


def test_every_answer_carries_the_safe_headers(served):
    place = urlsplit(served.local_url)
    for path in ("/", "/health", "/v1/models", "/nothing", "/assets/nothing.js"):
        line = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
        line.request("GET", path)
        headers = line.getresponse().headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert headers["server"] is None
        line.close()
