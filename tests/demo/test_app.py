import threading
from pathlib import Path

import gradio as gr
import pytest
from gradio.utils import get_upload_folder
from PIL import Image

from demo.app import ASSETS, MAX_QUESTION, MAX_UPLOAD, Chat, Loader
from qformer.contracts import LoupeError

SKIP = gr.skip()


@pytest.fixture
def chat(tiny_assistant, tmp_path, image):
    made = Chat(Loader(lambda: tiny_assistant).start(), "tiny")
    made.loader.wait()
    Image.fromarray(image.numpy()).save(tmp_path / "noise.png")
    made.examples = {"noise.png": tmp_path / "noise.png"}
    return made


@pytest.fixture
def operate(chat):
    """operate(op=...) -> canvas, messages, composer, of one visitor."""
    key, _, _ = chat.enter()
    count = 0

    def run(**operation):
        nonlocal count
        count += 1
        return chat.operate(key, gr.EventData(None, {"id": count, **operation}))

    run.key = key
    return run


def test_from_example_to_answer(chat, operate):
    canvas, talk, composer = operate(op="example", name="noise.png")
    assert canvas["picture"]["width"] == 60
    assert talk == []
    canvas, talk, composer = operate(op="point", x=0.2, y=0.3, positive=True, region=None)
    assert (canvas["ack"], canvas["error"]) == (2, "")
    assert canvas["regions"][0]["rle"]["counts"]
    assert composer["asked"] == [{"number": 1}]
    *_, (talk, box, composer) = chat.ask(operate.key, "what is this?")
    assert [message["role"] for message in talk] == ["user", "assistant"]
    assert talk[1]["content"]
    assert box.value == ""
    assert not composer["busy"]


def test_an_answer_streams_and_the_box_offers_stop_meanwhile(chat, operate):
    operate(op="example", name="noise.png")
    steps = list(chat.ask(operate.key, "what is this?"))
    assert len(steps) > 3
    lengths = [len(talk[-1]["content"]) for talk, _, _ in steps]
    assert lengths[0] == 0
    assert lengths == sorted(lengths)
    assert steps[0][1].stop_btn
    assert not steps[-1][1].stop_btn


def test_stop_keeps_what_was_written(chat, operate):
    operate(op="example", name="noise.png")
    answer = chat.ask(operate.key, "what is this?")
    next(answer)
    stopper = threading.Thread(target=answer.close)
    stopper.start()
    talk, box, composer = chat.stop(operate.key)
    stopper.join()
    assert talk[-1]["content"].endswith("*(stopped)*")
    assert box.submit_btn
    assert not composer["busy"]


def test_a_question_that_fails_comes_back_into_the_box(chat, operate):
    ((talk, box, composer),) = chat.ask(operate.key, "what is this?")
    assert (talk, box.value) == ([], "what is this?")
    assert "no picture yet" in composer["note"]
    operate(op="example", name="noise.png")
    for question in ("", "why " * 200, "x" * (MAX_QUESTION + 1)):
        ((_, box, composer),) = chat.ask(operate.key, question)
        assert box.value == question
        assert composer["note"]


def test_a_quick_question_is_a_question(chat, operate):
    operate(op="example", name="noise.png")
    event = gr.EventData(None, {"question": "what is this?"})
    *_, (talk, _, _) = chat.quick(operate.key, event)
    assert talk[0]["content"] == "what is this?"


@pytest.mark.parametrize(
    "operation",
    [
        {},
        {"op": "fly"},
        {"op": "example", "name": "../../etc/passwd"},
        {"op": "example", "name": 3},
        {"op": "upload", "file": {"path": "/etc/passwd"}},
        {"op": "upload", "file": {"path": str(ASSETS / "page.css")}},
        {"op": "upload", "file": {"path": "http://localhost/x.png"}},
        {"op": "upload", "path": "/etc/passwd"},
        {"op": "point", "x": 1.5, "y": 0, "positive": True, "region": None},
        {"op": "point", "x": float("nan"), "y": 0, "positive": True, "region": None},
        {"op": "point", "x": "0", "y": 0, "positive": True, "region": None},
        {"op": "point", "x": 0.5, "y": 0.5, "positive": 1, "region": None},
        {"op": "point", "x": 0.5, "y": 0.5, "positive": True, "region": "1"},
        {"op": "point", "x": 0.5, "y": 0.5, "positive": True, "region": True},
        {"op": "box", "box": [0, 0, 0, 0]},
        {"op": "box", "box": [0, 0, 1]},
        {"op": "choose", "region": 5, "asked": True},
        {"op": "choose", "region": {}, "asked": True},
        {"op": "delete", "region": None},
    ],
)
def test_what_the_page_would_never_send_is_refused(operate, operation):
    operate(op="example", name="noise.png")
    canvas, talk, _ = operate(**operation)
    assert canvas["error"]
    assert canvas["ack"] == 2
    assert canvas["regions"] == []
    assert talk == SKIP


def test_event_data_of_any_shape_is_answered(chat, operate):
    for data in (None, [], "x", {"id": "1"}):
        canvas, _, _ = chat.operate(operate.key, gr.EventData(None, data))
        assert canvas["error"]


def test_an_upload_is_taken_from_the_upload_folder_only(operate, image):
    folder = Path(get_upload_folder()) / "loupe-test"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "upload.png"
    try:
        Image.fromarray(image.numpy()).save(file)
        canvas, _, _ = operate(op="upload", file={"path": str(file)})
        assert canvas["error"] == ""
        file.write_bytes(b"no picture")
        canvas, _, _ = operate(op="upload", file={"path": str(file)})
        assert "not a picture" in canvas["error"]
        assert canvas["picture"]["id"] == 1  # the old one stays
        with file.open("wb") as handle:
            handle.truncate(MAX_UPLOAD + 1)
        assert "larger than 20 MB" in operate(op="upload", file={"path": str(file)})[0]["error"]
    finally:
        file.unlink()
        folder.rmdir()


def test_clicks_at_the_far_edge_are_inside(operate):
    operate(op="example", name="noise.png")
    canvas, _, _ = operate(op="point", x=1, y=1, positive=True, region=None)
    assert canvas["error"] == ""


def test_a_flood_of_clicks_is_slowed(operate):
    operate(op="example", name="noise.png")
    errors = [operate(op="clear")[0]["error"] for _ in range(60)]
    assert errors[0] == ""
    assert "too fast" in errors[-1]


def test_two_visitors_do_not_meet(chat, operate):
    operate(op="example", name="noise.png")
    other, canvas, _ = chat.enter()
    assert canvas["picture"] is None
    assert other != operate.key


def test_the_header_tells_of_loading_ready_and_failed(chat, tiny_assistant):
    gate = threading.Event()
    slow = Chat(Loader(lambda: gate.wait() and tiny_assistant).start(), "tiny")
    states = slow.status()
    assert next(states)["state"] == "loading"
    gate.set()
    ready = next(states)
    assert (ready["state"], ready["knows"]) == ("ready", "tiny random weights")
    assert [one["state"] for one in chat.status()] == ["ready"]


@pytest.mark.parametrize("error", [LoupeError("model.safetensors is missing"), RuntimeError("x")])
def test_a_model_that_does_not_load_is_said_in_the_header_and_at_the_picture(chat, error):
    def build():
        raise error

    chat = Chat(Loader(build).start(), "broken")
    *_, header = chat.status()
    assert header["state"] == "failed"
    assert header["text"]
    with pytest.raises(LoupeError):
        chat.loader.wait()
    assert chat.loader.ready() is None


def test_the_templates_hold_nothing_that_would_run():
    # gradio evaluates templates: "${...}" and "{{...}}" in one would be code.
    for template in ASSETS.glob("*.html"):
        text = template.read_text()
        assert not {"${", "{{", "`", "\\"} & {
            text[i : i + n] for i in range(len(text)) for n in (1, 2)
        }
