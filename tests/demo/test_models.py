"""The model the page answers with: read meanwhile, failed, changed for another."""

import re
import threading
import weakref

import pytest
import torch
from caller import Caller
from safetensors.torch import save_file

from adapters.build import build
from adapters.catalogue import CATALOGUE
from adapters.memory import PRECISIONS
from demo.app import ASSETS
from demo.events import MODELS
from demo.handlers import Chat
from demo.models import Chooser, Loader, fetched
from demo.page import header
from demo.serve.worker import Worker, take_turns
from qformer.contracts import LoupeError

CHOOSE = {
    "op": "choose", "model": "Salesforce/blip2-opt-2.7b", "segmenter": None, "precision": "fp32",
}  # fmt: skip


def test_the_header_tells_of_loading_ready_and_failed(tiny_assistant):
    gate = threading.Event()
    slow = Chat(Loader(lambda: gate.wait() and tiny_assistant, "tiny").start())
    states = slow.status()
    assert next(states)["state"] == "loading"
    gate.set()
    ready = next(states)
    assert (ready["state"], ready["text"]) == ("ready", "tiny")
    assert ready["knows"] == "tiny random weights"


@pytest.mark.parametrize("error", [LoupeError("no such model"), MemoryError("secret")])
def test_a_model_that_does_not_load_is_said_in_the_header_and_at_the_picture(error, caplog):
    def build():
        raise error

    chat = Chat(Loader(build, "broken").start())
    *_, header = chat.status()
    assert header["state"] == "failed"
    assert header["text"]
    assert "secret" not in header["text"]
    with pytest.raises(LoupeError):
        chat.loader.wait()
    assert chat.loader.ready() is None


def test_another_model_is_chosen_while_the_old_one_answers(tiny_assistant, image):
    gate = threading.Event()
    second = type(tiny_assistant)(
        tiny_assistant.vision, tiny_assistant.bridge, tiny_assistant.language,
        tiny_assistant.segmenter, tiny_assistant.config, tiny_assistant.tokenizer,
    )  # fmt: skip
    asked = []

    def another(model, segmenter, precision):
        asked.append((model, segmenter, precision))
        gate.wait()
        if model == "paintings":
            raise LoupeError("too little memory: nf4 would fit")
        return second

    chat = Chat(Loader(lambda: tiny_assistant, "tiny", Chooser(another, device=None)).start())
    chat.loader.wait()
    visitor = Caller(chat)
    visitor.session.open(image)
    wanted = {**CHOOSE, "precision": "nf4"}
    states = chat.model(wanted)
    shown = next(states)
    assert shown["model"] == "paintings"  # what the list marks
    assert (shown["state"], shown["text"]) == ("loading", "loading Salesforce/blip2-opt-2.7b")
    assert "is being read" in next(chat.model(wanted))["note"]
    assert visitor.session.picture().view.assistant is tiny_assistant
    visitor.ask()
    gate.set()
    *_, shown = states
    assert (shown["state"], shown["text"], shown["note"]) == ("ready", "blip2-opt-2.7b", "")
    told = (shown["model"], shown["segmenter"], shown["precision"])
    assert told == (wanted["model"], None, "nf4")
    assert visitor.session.picture().view.assistant is second
    *_, shown = chat.model({**CHOOSE, "model": "paintings"})
    assert (shown["state"], shown["note"]) == ("ready", "too little memory: nf4 would fit")
    assert chat.loader.ready() is second
    assert asked == [("Salesforce/blip2-opt-2.7b", None, "nf4"), ("paintings", None, "fp32")]


@pytest.mark.parametrize(
    "data",
    [
        None, {"op": "choose"}, {**CHOOSE, "model": "../../etc"},
        {**CHOOSE, "model": "somebody/pickle"}, {**CHOOSE, "segmenter": "http://10.0.0.1/"},
        {**CHOOSE, "precision": "fp99"}, {**CHOOSE, "precision": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_model_that_is_not_on_the_list_is_not_read(tiny_assistant, data):
    def never(*named):
        raise AssertionError(named)

    chat = Chat(Loader(lambda: tiny_assistant, "tiny", Chooser(never)).start())
    chat.loader.wait()
    (shown,) = chat.model(data)
    assert shown["note"]
    assert chat.loader.loading is None


def test_where_models_are_not_chosen_nobody_can(tiny_assistant):
    chat = Chat(Loader(lambda: tiny_assistant, "tiny").start())
    chat.loader.wait()
    for data in ({"op": "list"}, CHOOSE):
        (shown,) = chat.model(data)
        assert "not chosen here" in shown["note"]
        assert not shown["chooses"]


def test_the_list_says_what_each_model_needs_in_each_precision(monkeypatch):
    free = {"cuda": 9 * 10**9}
    monkeypatch.setattr("adapters.memory.available", free.get)
    told = Chooser(lambda *named: None, device="cuda").choices()
    assert told["free"] == free["cuda"]
    own = next(one for one in told["models"] if one["model"] == "paintings")
    others = [one for one in told["models"] if "/" in one["model"]]
    assert own["segmenter"] is None
    assert 0 < own["memory"]["fp32"] == own["memory"]["nf4"] < 10**8
    assert {one["segmenter"] for one in others} == {"sam2.1-base-plus"}  # on a GPU
    assert {one["model"] for one in others} == {one.model for one in CATALOGUE if one.answers}
    for one in (*others, *told["segmenters"]):
        assert list(one["memory"]) == list(PRECISIONS)
        assert one["licence"]
        assert one["suits"]
        full, half, *_ = one["memory"].values()
        assert 1.9 < full / half <= 2
    listed = next(one for one in CATALOGUE if one.model == CHOOSE["model"])
    needs = others[0]["memory"]
    assert needs["bf16"] == listed.count.needed(torch.bfloat16)
    assert needs["nf4"] == listed.count.needed(torch.bfloat16, "nf4") < needs["int8"]


def test_the_page_offers_the_precisions_there_are():
    offered = MODELS["choose"]["precision"]
    assert [offered(name) for name in PRECISIONS] == list(PRECISIONS)
    page = (ASSETS / "header.html").read_text()
    assert all(f'value="{name}"' in page for name in PRECISIONS)


@pytest.mark.parametrize(
    ("free", "precision", "says"),
    [
        (9, "fp32", r"needs 16\.\d GB in fp32 and 9\.0 GB .* free: these would fit: bf16 \(8\.\d"),
        (5, "bf16", r"needs 8\.\d GB in bf16 and 5\.0 GB .* free: these would fit: nf4 \(4\.\d"),
        (1, "nf4", r"free: choose a smaller model$"),
    ],
)
def test_a_model_that_does_not_fit_is_said_before_it_is_fetched(
    tiny_assistant, monkeypatch, free, precision, says
):
    def never(*named):
        raise AssertionError(named)

    monkeypatch.setattr("adapters.memory.available", lambda device: free * 10**9)
    chat = Chat(Loader(lambda: tiny_assistant, "tiny", Chooser(never)).start())
    chat.loader.wait()
    (shown,) = chat.model({**CHOOSE, "precision": precision})
    assert re.search(says, shown["note"])
    assert (shown["state"], shown["text"]) == ("ready", "tiny")
    assert chat.loader.loading is None


@pytest.mark.parametrize(
    ("model", "segmenter", "needs", "smaller"),
    [
        ("Salesforce/blip2-opt-2.7b", None, r"16\.3 GB in fp32", "bf16"),  # SAM 2.1's 0.2 with it
        ("Salesforce/blip2-opt-2.7b", "sam-vit-h", r"18\.9 GB in fp32", "bf16"),
        ("paintings", "sam-vit-h", r"2\.8 GB in fp32", "smaller model"),
    ],
)
def test_what_a_model_needs_is_counted_with_its_segmenter(
    monkeypatch, model, segmenter, needs, smaller
):
    chooser = Chooser(lambda *named: None)
    wants = float(re.search(r"[\d.]+", needs.replace("\\", ""))[0]) * 1e9
    monkeypatch.setattr("adapters.memory.available", lambda device: int(wants * 0.99))
    with pytest.raises(LoupeError, match=needs) as refused:
        chooser.check(model, segmenter, "fp32")
    assert smaller in str(refused.value)
    assert (segmenter or model) in str(refused.value)
    monkeypatch.setattr("adapters.memory.available", lambda device: int(wants * 1.01))
    chooser.check(model, segmenter, "fp32")


def test_memory_that_runs_out_while_a_model_is_read_leaves_the_old_one(
    tiny_assistant, image, caplog
):
    def broken(*named):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes")

    chat = Chat(Loader(lambda: tiny_assistant, "tiny", Chooser(broken, device=None)).start())
    chat.loader.wait()
    visitor = Caller(chat)
    visitor.session.open(image)
    visitor.ask()
    *_, shown = chat.model(CHOOSE)
    assert "memory ran out while Salesforce/blip2-opt-2.7b was read" in shown["note"]
    assert "smaller precision" in shown["note"]
    assert (shown["state"], shown["model"]) == ("ready", "paintings")
    talk = visitor.ask("and its colour?")
    assert [entry["state"] for entry in talk["entries"][1::2]] == ["done", "done"]


def test_a_model_that_was_replaced_is_let_go_of(tiny_folder, image):
    def opened(*named):
        return build(tiny_folder("loupe"))

    chat = Chat(Loader(opened, "tiny", Chooser(opened, device=None)).start())
    take_turns(chat.loader.wait(), worker := Worker())
    gone = weakref.ref(chat.loader.ready().language)
    visitor, idle = Caller(chat), Caller(chat)
    for one in (visitor, idle):
        for _ in range(2):
            one.session.open(image)
        one.operate(op="point", x=0.5, y=0.5, positive=True, region=None)
        one.ask()
    *_, shown = chat.model(CHOOSE)
    assert shown["model"] == CHOOSE["model"]
    assert gone() is None
    assert visitor.ask("and its colour?")["entries"][-1]["state"] == "done"
    assert visitor.operate(op="switch", picture=1)[0]["error"] == ""
    worker.close()


def test_the_header_tells_how_much_has_been_fetched(tiny_assistant, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    arrives, goes_on = threading.Event(), threading.Event()

    def fetch(*named):
        arrives.wait()
        goes_on.wait()
        return tiny_assistant

    chat = Chat(Loader(lambda: tiny_assistant, "tiny", Chooser(fetch, device=None)).start())
    chat.loader.wait()
    states = chat.model(CHOOSE)
    assert next(states)["text"] == "loading Salesforce/blip2-opt-2.7b"
    folder = tmp_path / "models--Salesforce--blip2-opt-2.7b"
    (folder / "blobs").mkdir(parents=True)
    (folder / "snapshots" / "abc").mkdir(parents=True)
    with (folder / "blobs" / "x.incomplete").open("wb") as file:
        file.truncate(2_500_000_000)
        assert next(states)["text"].endswith("blip2-opt-2.7b, 2.5 GB here")
        index = folder / "snapshots" / "abc" / "model.safetensors.index.json"
        index.write_text('{"metadata": {"total_size": 15000000000}}')
        file.truncate(7_500_000_000)
        assert next(states)["text"].endswith("blip2-opt-2.7b, 7.5 of 15.0 GB here")
        index.write_text("{")
        assert next(states)["text"].endswith("blip2-opt-2.7b, 7.5 GB here")
    goes_on.set()
    arrives.set()
    *_, last = states
    assert (last["state"], last["text"]) == ("ready", "blip2-opt-2.7b")


def test_a_model_of_one_file_says_how_much_there_is_as_soon_as_it_has_begun(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "tokenizer").write_text('{"model": 1}')
    save_file({"one": torch.zeros(40, 50), "two": torch.zeros(7)}, tmp_path / "whole", {"by": "me"})
    whole = (tmp_path / "whole").read_bytes()
    others = (blobs / "tokenizer").stat().st_size
    for come in (0, 5, 20):  # not even the list of what it holds
        (blobs / "x.incomplete").write_bytes(whole[:come])
        assert fetched("a/b") == (others + come, None)
    for come in (1000, len(whole)):
        (blobs / "x.incomplete").write_bytes(whole[:come])
        assert fetched("a/b") == (others + come, others + len(whole))


def test_a_hub_model_named_at_the_start_shows_its_progress_too(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    with (blobs / "x.incomplete").open("wb") as file:
        file.truncate(300_000_000)
    end = threading.Event()
    loader = Loader(end.wait, "b", Chooser(lambda *named: None, "a/b")).start()
    assert header(loader)["text"] == "loading b, 0.3 GB here"
    end.set()
