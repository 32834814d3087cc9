"""lmms-eval runs a Loupe model, where it is installed."""

from importlib.metadata import entry_points

import pytest
from PIL import Image

pytest.importorskip("lmms_eval.models.registry_v2")

from lmms_eval.api.instance import Instance

from adapters.build import build
from adapters.images import load_image
from qformer.contracts import Decoding
from train.eval import lmms


def request(kind, document, text="what is this?", second=None):
    visual = lambda doc: [doc["image"]]  # noqa: E731
    return Instance(
        kind, (text, second if second is not None else {"max_new_tokens": 6}, visual, document,
               "task", "test"), 0, {"task": "task", "doc_id": document, "repeats": 1},
    )  # fmt: skip


@pytest.fixture
def model(tiny_model, coco):
    model = lmms.LoupeLmms(str(tiny_model), batch_size="2", unknown="of lmms-eval's own")
    files = [coco / "images" / f"{number}.png" for number in (1, 2, 3)]
    model.task_dict["task"] = {"test": [{"image": Image.open(file)} for file in files]}
    return model


def test_it_writes_what_loupe_writes(model, tiny_model):
    texts = ["what is this?", "how many?", "is there a tree?"]
    told = model.generate_until([request("generate_until", n, t) for n, t in enumerate(texts)])
    assistant = build(tiny_model)
    for number, (text, answer) in enumerate(zip(texts, told, strict=True)):
        view = assistant.encode(load_image(model.task_dict["task"]["test"][number]["image"]))
        decoding = model.asked.decoding("vqa")
        assert answer == view.ask(text, (), type(decoding)(max_new_tokens=6))


def test_each_answer_is_written_as_its_task_wants(model, tiny_model):
    settings = [
        {"max_new_tokens": 3}, {"max_new_tokens": 6, "num_beams": 2}, {"max_new_tokens": 3},
        {"max_new_tokens": 6, "until": ["e", "a"]},
    ]  # fmt: skip
    told = model.generate_until([request("generate_until", 0, second=one) for one in settings])
    view = build(tiny_model).encode(load_image(model.task_dict["task"]["test"][0]["image"]))
    short, beams, again, cut = told
    assert short == again == view.ask("what is this?", (), Decoding(3))
    assert beams == view.ask("what is this?", (), Decoding(6, beams=2))
    whole = view.ask("what is this?", (), Decoding(6))
    assert whole.startswith(cut)
    assert not {"e", "a"} & set(cut)


def test_the_likeliest_choice_has_the_least_number(model, tiny_model):
    choices = ["a yellow cat", "no", "three blue birds"]
    requests = [
        request("loglikelihood", 0, second=lambda doc, one=one: f" {one}") for one in choices
    ]
    found = model.loglikelihood(requests)
    view = build(tiny_model).encode(load_image(model.task_dict["task"]["test"][0]["image"]))
    for (loss, greedy), choice in zip(found, choices, strict=True):
        expected = view.log_likelihood("what is this?", (), choice)
        assert loss == pytest.approx(-expected, abs=1e-5)
        assert greedy in (True, False)
    alone = Instance("loglikelihood", ("", "no"), 0, {"task": "task", "doc_id": 0, "repeats": 1})
    ((loss, _),) = model.loglikelihood([alone])  # as acc_mutual_info asks
    assert loss > 0


def test_a_picture_that_cannot_be_read_costs_no_other_its_answer(model):
    model.task_dict["task"]["test"][1] = {"image": "a film.mp4"}
    told = model.generate_until([request("generate_until", n, "<image>\nwhat?") for n in (0, 1, 2)])
    assert told[1] == ""
    assert len(told) == 3


def test_lmms_eval_finds_it_by_its_entry_point():
    known = entry_points(group="lmms_eval.models")
    if "loupe" not in known.names:
        pytest.skip("Loupe is not installed as a package here")
    assert known["loupe"].load()().model_id == "loupe"
