"""Ranking pictures by a text, against Blip2ForImageTextRetrieval's own scores, live."""

import heapq
import json
import types

import pytest
import tiny
import torch
from PIL import Image
from whole import bert

from adapters.build import build
from adapters.published import open_retrieval
from demo import cli
from qformer.contracts import CheckpointError, QuestionError
from qformer.together import Question
from train.eval.models import open_model

transformers = pytest.importorskip("transformers")

TEXT = "a small red circle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieval")
    config = transformers.Blip2Config(
        vision_config=tiny.shape(),
        qformer_config={
            "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
            "intermediate_size": 48, "encoder_hidden_size": tiny.WIDTH, "vocab_size": 120,
            "use_qformer_text_input": True,
        },
        num_query_tokens=4,
        image_text_hidden_size=16,
        image_token_index=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = tiny.lively(transformers.Blip2ForImageTextRetrieval(config))
    model.save_pretrained(folder)
    bert(folder)
    settings = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 256, (20, 30, 3), generator=generator).byte() for _ in range(7)]


@torch.no_grad()
def theirs(folder, images):
    """Their (cosine, [no match, match]) of each picture."""
    model = transformers.Blip2ForImageTextRetrieval.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")
    vision = open_retrieval(folder).vision
    asked = {
        "pixel_values": torch.stack([vision.preprocess(image) for image in images]),
        "input_ids": words["input_ids"].expand(len(images), -1),
        "attention_mask": words["attention_mask"].expand(len(images), -1),
    }
    cosine = model(**asked, use_image_text_matching_head=False).logits_per_image
    return cosine[:, 0], model(**asked, use_image_text_matching_head=True).logits_per_image


def test_scores_are_those_of_blip2_for_image_text_retrieval(folder, images):
    cosine, logits = theirs(folder, images)
    matches = open_retrieval(folder).rank(iter(images), TEXT)
    assert sorted(match.index for match in matches) == list(range(7))
    for match in matches:
        assert match.itc == pytest.approx(cosine[match.index].item(), abs=1e-5)
        no, yes = logits[match.index].tolist()
        assert match.itm == pytest.approx(yes - no, abs=1e-5)
        assert match.score == pytest.approx(yes + cosine[match.index].item(), abs=1e-5)
    assert [m.score for m in matches] == sorted((m.score for m in matches), reverse=True)


def test_contrast_picks_and_matching_orders_what_it_picked(folder, images):
    cosine, _ = theirs(folder, images)
    matches = open_retrieval(folder).rank(iter(images), TEXT, keep=3)
    assert {match.index for match in matches} == set(cosine.topk(3).indices.tolist())


def test_pictures_are_read_one_by_one_and_few_are_remembered(folder, images, monkeypatch):
    held = []

    def spy(heap, item):
        heapq.heappush(heap, item)
        held.append(len(heap))

    own = types.SimpleNamespace(heappush=spy, heappop=heapq.heappop)  # others have heaps too
    monkeypatch.setattr("qformer.retrieval.heapq", own)
    ranker = open_retrieval(folder)
    assert len(ranker.rank((image for image in images), TEXT, keep=2)) == 2
    assert max(held) == 3


@pytest.mark.parametrize(("text", "says"), [("  ", "is empty"), ("red " * 50, "reads 35")])
def test_a_text_that_cannot_be_read_is_refused(folder, text, says):
    with pytest.raises(QuestionError, match=says):
        open_retrieval(folder).rank([], text)


def test_a_retrieval_model_answers_no_questions(folder):
    with pytest.raises(CheckpointError, match="loupe rank and loupe find use it"):
        build(folder)


def test_the_command_ranks_files_and_goes_on_after_a_bad_one(folder, images, tmp_path, capsys):
    files = [tmp_path / f"{n}.png" for n in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image.numpy()).save(file)
    files[2].write_bytes(b"")
    words = ["rank", *map(str, files), "--text", TEXT, "--model", str(folder), "--top", "4"]
    assert cli.main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    ranked = [json.loads(line) for line in out.splitlines()]
    assert len(ranked) == 4
    assert "2.png is empty" in err
    kept = [image for n, image in enumerate(images) if n != 2]
    best = open_retrieval(folder).rank(kept, TEXT)[0].index
    assert ranked[0]["image"] == str(files[best + (best >= 2)])
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith(f"1. {ranked[0]['image']}")
    assert cli.main([*words[:-1], "0"]) == 2


def test_texts_of_several_lengths_match_as_each_does_alone(folder, images):
    """What `loupe eval` asks: many texts of one picture, the short ones padded, long ones cut."""
    texts = [TEXT, "a cat", "which is bigger, region 1 or region 2? " * 9]
    model = open_model(str(folder))
    model_class = transformers.Blip2ForImageTextRetrieval.from_pretrained(folder).eval()
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    pixels = model.ranker.vision.preprocess(images[0])[None]
    scores = model.match([Question(images[0], "", choices=tuple(texts))])[0]
    for text, score in zip(texts, scores, strict=True):
        read = reader(text, return_tensors="pt", truncation=True, max_length=35)
        asked = {key: read[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            no, yes = model_class(
                pixel_values=pixels, **asked, use_image_text_matching_head=True
            ).logits_per_image[0]
            cosine = model_class(pixel_values=pixels, **asked).logits_per_image[0, 0]
        assert score == pytest.approx(float(yes - no), abs=1e-5)
        features = model.image_features(images[:1])[0] @ model.text_features([text])[0]
        assert float(features.max()) == pytest.approx(float(cosine), abs=1e-5)
