"""What the photo default starts from, how it is installed, and how sure it says it is."""

import json

import numpy as np
import pytest
import torch

from qformer.contracts import LoupeError
from train.photos.calibrate import fit
from train.photos.start import class_names, name_vectors, texts


def test_classes_are_named_in_the_order_of_their_numbers(tmp_path):
    index = tmp_path / "index.jsonl"
    lines = [{"wnid": f"n{n:08d}", "name": f"thing {n}"} for n in reversed(range(1000))]
    index.write_text("\n".join(json.dumps(line) for line in lines))
    assert class_names(index)[:2] == ["thing 0", "thing 1"]
    index.write_text("\n".join(json.dumps(line) for line in lines[:7]))
    with pytest.raises(LoupeError, match="names 7 classes"):
        class_names(index)


def test_names_of_like_words_have_like_vectors(tiny_assistant):
    names = ["red star", "red heart", "small house", "large house", "blue tree"]
    vectors = name_vectors(names, tiny_assistant.language, 4)
    assert vectors.shape == (5, 4)
    assert float(vectors.std()) == pytest.approx(1.0, abs=1e-4)
    alike = torch.nn.functional.normalize(vectors, dim=-1)
    alike = alike @ alike.T
    assert alike[0, 1] > alike[0, 3]


def test_all_that_samples_say_and_ask_is_read(tmp_path):
    with pytest.raises(LoupeError, match="loupe data photos"):
        list(texts(tmp_path))
    (tmp_path / "val-things.jsonl").write_text('{"image": "b.jpg", "text": "kept back"}')
    file = tmp_path / "things.jsonl"
    lines = [
        {"image": "a.jpg", "text": ["a dog", "one dog"]},
        {"image": "a.jpg", "question": "what is it?", "answer": "a cat"},
        {"image": "a.jpg", "question": "how many?", "answers": ["one", "1"]},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    said = list(texts(tmp_path))
    assert said == ["a dog", "one dog", "what is it?", "a cat", "how many?", "one", "1"]


def test_the_fit_finds_how_often_such_answers_are_right():
    rng = np.random.default_rng(0)
    likely = rng.uniform(0.05, 0.95, 4000)
    truth = 1 / (1 + np.exp(-(0.6 * np.log(likely / (1 - likely)) - 0.4)))
    found = [(float(p), bool(rng.random() < t)) for p, t in zip(likely, truth, strict=True)]
    confidence = fit(found)
    assert confidence.scale == pytest.approx(0.6, abs=0.1)
    assert confidence.shift == pytest.approx(-0.4, abs=0.1)


@pytest.mark.parametrize("found", [[(0.5, True)] * 5, [(0.5, True)] * 50])
def test_facts_that_calibrate_nothing_are_refused(found):
    with pytest.raises(LoupeError, match="calibrate nothing"):
        fit(found)
