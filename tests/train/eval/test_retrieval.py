"""Retrieval in bounded memory is the retrieval that compares everything with everything."""

import json
import shutil

import numpy as np
import pytest
import torch

from train.data.source import DataConfig
from train.eval import retrieval
from train.eval.cli import main
from train.eval.run import Asked


class Model:
    """Random vectors for pictures and texts, and a match logit that knows both."""

    name, ways = "model", ("match", "retrieve")

    def __init__(self):
        self.read = 0

    def image_features(self, images):
        return torch.stack([self.vectors(int(image.float().mean() * 1000)) for image in images])

    def text_features(self, texts):
        return torch.stack([self.vectors(sum(map(ord, text)))[0] for text in texts])

    def vectors(self, seed):
        found = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed))
        return torch.nn.functional.normalize(found, dim=-1)

    def rerank(self, image, texts):
        self.read += 1
        own = int(image.float().mean() * 1000)
        seeds = [own + 7 * sum(map(ord, text)) for text in texts]
        return torch.tensor([float(np.random.default_rng(seed).normal()) for seed in seeds])


def test_candidates_are_the_nearest_of_all(monkeypatch):
    torch.manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(30, 4, 8), dim=-1)
    texts = torch.nn.functional.normalize(torch.randn(70, 8), dim=-1)
    found = retrieval.pick(iter(images.split(7)), texts, 30, keep=5)
    cosines = torch.einsum("iqd,td->itq", images, texts).amax(-1)
    torch.testing.assert_close(torch.tensor(found.text_cosines), cosines.topk(5).values)
    torch.testing.assert_close(torch.tensor(found.image_cosines), cosines.T.topk(5).values)
    assert (found.texts == cosines.topk(5).indices.numpy()).all()
    assert (found.images == cosines.T.topk(5).indices.numpy()).all()
    for image in range(30):
        near = {text for text in range(70) if image in found.images[text]}
        assert set(found.asked_of(image)) == near | set(found.texts[image])


@pytest.fixture
def evaluated(coco, tmp_path):
    out = tmp_path / "out"

    def run(model, keep=128):
        asked = Asked("coco-retrieval", DataConfig("coco-captions", str(coco)))
        return retrieval.evaluate(
            asked, {"loupe": model}, {"loupe": {}}, out, lambda *_: None, batch=2, keep=keep
        )

    return run, out, coco


def test_recalls_are_those_of_scoring_every_pair(evaluated):
    run, _, coco = evaluated
    model = Model()
    systems = run(model)["systems"]
    captions = json.loads((coco / "captions.json").read_text())["annotations"]
    from adapters.images import load_image

    images = [load_image(coco / "images" / f"{number}.png") for number in (1, 2, 3)]
    texts = [one["caption"] for one in captions]
    owner = np.array([one["image_id"] - 1 for one in captions])
    cosines = torch.einsum(
        "iqd,td->itq", model.image_features(images), model.text_features(texts)
    ).amax(-1)
    logits = torch.stack([model.rerank(image, texts) for image in images])
    for name, total in (("contrast", cosines), ("contrast, then matching", cosines + logits)):
        best_text = total.argmax(1).numpy()
        best_image = total.argmax(0).numpy()
        scores = systems[f"loupe: {name}"]["scores"]
        assert scores["text R@1"]["value"] == pytest.approx(
            float((owner[best_text] == np.arange(3)).mean()), abs=1e-5
        )
        assert scores["image R@1"]["value"] == pytest.approx(
            float((best_image == owner).mean()), abs=1e-5
        )
        assert scores["text R@10"]["value"] == 1


def test_a_model_without_vectors_reads_every_pair(evaluated):
    class Matcher:
        name, ways, rerank = "model", ("match", "retrieve"), Model.rerank
        read = 0

    run, out, coco = evaluated
    model = Matcher()
    ((name, found),) = run(model, keep=1)["systems"].items()
    assert (name, model.read) == ("loupe: matching of every pair", 3)
    from adapters.images import load_image

    captions = json.loads((coco / "captions.json").read_text())["annotations"]
    owner = np.array([one["image_id"] - 1 for one in captions])
    logits = torch.stack([
        model.rerank(load_image(coco / "images" / f"{n}.png"), [one["caption"] for one in captions])
        for n in (1, 2, 3)
    ]).numpy()  # fmt: skip
    for kind, right in (
        ("text", owner[logits.argmax(1)] == np.arange(3)), ("image", logits.argmax(0) == owner),
    ):  # fmt: skip
        assert found["scores"][f"{kind} R@1"]["value"] == pytest.approx(right.mean(), abs=1e-5)
    assert (out / "page.html").is_file()


def test_matching_resumes_with_the_next_picture(evaluated):
    run, out, _ = evaluated
    first, again = Model(), Model()
    whole = run(first)["systems"]
    file = out / "predictions.jsonl"
    kept = file.read_text().splitlines()[:7]  # the header, cases, contrast's ranks, two pictures
    file.write_text("\n".join(kept) + '\n{"id"')
    resumed = run(again)["systems"]
    assert (first.read, again.read) == (3, 1)
    name = "loupe: contrast, then matching"
    assert whole[name]["scores"] == resumed[name]["scores"]
    assert (out / "page.html").is_file()


def test_two_ways_compare_pair_by_pair_without_the_data(evaluated, capsys):
    run, out, coco = evaluated
    systems = run(Model())["systems"]
    shutil.rmtree(coco)
    first, second = (f"{out}#loupe: {name}" for name in ("contrast, then matching", "contrast"))
    assert main(["--compare", first, second, "--json"]) == 0
    tests = json.loads(capsys.readouterr().out)
    for name, test in tests.items():
        for which, system in (("first", "contrast, then matching"), ("second", "contrast")):
            expected = systems[f"loupe: {system}"]["scores"][name]["value"]
            assert test[which] == pytest.approx(expected, abs=1e-6)
    assert tests["image R@1"]["items"] == 6


def test_few_candidates_bound_what_is_matched(evaluated):
    run, out, _ = evaluated
    run(Model(), keep=1)
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    pairs = sum(len(line["texts"]) for line in lines if "texts" in line)
    assert pairs <= 3 * 1 + 6 * 1  # pictures and texts, a candidate each
