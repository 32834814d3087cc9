"""lmms-eval runs a Loupe model, where it is installed."""

from importlib.metadata import entry_points

import pytest
from PIL import Image

pytest.importorskip("lmms_eval.models.registry_v2")

from lmms_eval.api.instance import Instance

from adapters.build import build
from adapters.images import load_image
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


def test_it_weighs_continuations(model):
    likely = request("loglikelihood", 0, second=lambda doc: " a yellow cat")
    ((total, greedy),) = model.loglikelihood([likely])
    assert total < 0
    assert greedy in (True, False)


def test_lmms_eval_finds_it_by_its_entry_point():
    known = entry_points(group="lmms_eval.models")
    if "loupe" not in known.names:
        pytest.skip("Loupe is not installed as a package here")
    assert known["loupe"].load()().model_id == "loupe"
