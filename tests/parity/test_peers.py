"""Every peer says what its own class says, on tiny random models."""

import json

import pytest
import tiny
import torch
from PIL import Image
from whole import bert, make

from adapters.peers import PEERS, open_peer
from adapters.peers.sentences import SentenceEncoder
from adapters.rle import encode_rle
from qformer.contracts import CheckpointError, LoupeError
from qformer.together import Question
from train.eval.cli import main

transformers = pytest.importorskip("transformers")

SIZE = {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}
TEXTS = ("a small red circle", "a yellow cat", "three pink fish behind the car")
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": 120, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 2,
    "eos_token_id": 3, "sep_token_id": 3, "encoder_hidden_size": tiny.WIDTH,
}  # fmt: skip


def processor(folder, kind, **more):
    settings = {
        "image_processor_type": kind, "do_resize": True, "size": SIZE,
        "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], **more,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def images(count=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (40, 56, 3), generator=generator).byte() for _ in range(count)]


def shown(count=3, texts=("what is this?", "a tree?", "what?")):
    return [
        Question(image, text, choices=TEXTS)
        for image, text in zip(images(count), texts, strict=False)
    ]


def saved(model, folder, processor_kind, **more):
    tiny.lively(model).save_pretrained(folder)
    bert(folder)
    processor(folder, processor_kind, **more)
    return model.eval()


def pixels(folder, chosen):
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return processor([image.numpy() for image in chosen], return_tensors="pt")


def words(folder, texts):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer(list(texts), padding=True, return_tensors="pt", return_token_type_ids=False)


@pytest.fixture(
    scope="module",
    params=[("blip2", "opt"), ("blip2", "t5"), ("instructblip", "llama"), ("instructblip", "t5")],
    ids="-".join,
)
def bridged(request, tmp_path_factory):
    kind, language = request.param
    folder, model = make(kind, language, tmp_path_factory.mktemp("peers"))
    processor(folder, "BlipImageProcessor")
    return folder, type(model).from_pretrained(folder, dtype=torch.float32), open_peer(kind, folder)


def prompt(folder, model, peer, text):
    ids = transformers.AutoTokenizer.from_pretrained(folder)(peer.prompt(text))["input_ids"]
    inputs = {
        "input_ids": torch.tensor(
            [[model.config.image_token_index] * model.config.num_query_tokens + ids]
        )
    }
    if "instruct" in model.config.model_type:
        reader = transformers.AutoTokenizer.from_pretrained(folder / "qformer_tokenizer")
        read = reader(peer.prompt(text), return_tensors="pt")
        inputs["qformer_input_ids"] = read["input_ids"]
        inputs["qformer_attention_mask"] = read["attention_mask"]
    return inputs


@torch.no_grad()
def test_blip2_and_instructblip_write_what_generate_writes(bridged):
    folder, model, peer = bridged
    questions = [*shown(), Question(images(1)[0], "")]
    written = peer.write(questions, "vqa")
    for question, answer in zip(questions, written, strict=True):
        inputs = prompt(folder, model, peer, question.text)
        ids = model.generate(
            **inputs, **pixels(folder, [question.image]), num_beams=5, max_new_tokens=10,
            min_new_tokens=1, length_penalty=-1.0, do_sample=False,
        )  # fmt: skip
        length = inputs["input_ids"].shape[1]
        if ids.shape[1] > length and ids[0, :length].equal(inputs["input_ids"][0]):
            ids = ids[:, length:]
        assert answer == peer.tokenizer.decode(ids[0], skip_special_tokens=True).strip()


@torch.no_grad()
def test_blip2_and_instructblip_weigh_choices_as_their_loss_does(bridged):
    folder, model, peer = bridged
    choices = ("a tree", "three", "no")  # without the word whose id the tiny model gives pictures
    question = Question(images(1)[0], "what is this?", choices=choices)
    for choice, found in zip(choices, peer.choose([question])[0], strict=True):
        inputs = prompt(folder, model, peer, question.text)
        ids = peer.tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*ids, int(peer._end()[0])]])
        if model.config.use_decoder_only_language_model:
            before = inputs["input_ids"]
            inputs["input_ids"] = torch.cat([before, ids], 1)
            labels = torch.cat([torch.full_like(before, -100), ids], 1)
        else:
            labels = ids
        loss = model(**inputs, **pixels(folder, [question.image]), labels=labels).loss
        assert found.tokens == ids.shape[1]
        assert found.mean == pytest.approx(-float(loss), abs=1e-4)


def blip_config():
    return transformers.BlipConfig(
        text_config={**TEXT, "encoder_hidden_size": 32},
        vision_config={**tiny.shape(), "hidden_size": 32}, projection_dim=16,
        image_text_hidden_size=16,
    )  # fmt: skip


@torch.no_grad()
def test_blip_captions_are_those_of_its_class(tmp_path):
    torch.manual_seed(0)
    model = transformers.BlipForConditionalGeneration(blip_config())
    model = saved(model, tmp_path, "BlipImageProcessor")
    peer = open_peer("blip-caption", str(tmp_path))
    captions = peer.write([Question(image, "") for image in images()], "caption")
    for image, caption in zip(images(), captions, strict=True):
        ids = model.generate(
            **pixels(tmp_path, [image]), num_beams=5, max_new_tokens=30, min_new_tokens=8
        )
        assert caption == peer.tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    refused = peer.write(shown()[:1], "vqa")[0]
    assert isinstance(refused, LoupeError)
    assert "captions" in str(refused)


@torch.no_grad()
def test_blip_answers_are_those_of_its_class(tmp_path):
    torch.manual_seed(0)
    model = transformers.BlipForQuestionAnswering(blip_config())
    model = saved(model, tmp_path, "BlipImageProcessor")
    peer = open_peer("blip-vqa", str(tmp_path))
    for question, answer in zip(shown(), peer.write(shown(), "vqa"), strict=True):
        ids = model.generate(
            **words(tmp_path, [question.text]), **pixels(tmp_path, [question.image]),
            num_beams=5, max_new_tokens=10, min_new_tokens=1, length_penalty=-1.0,
        )  # fmt: skip
        assert answer == peer.tokenizer.decode(ids[0], skip_special_tokens=True).strip()


@torch.no_grad()
def test_blip_matches_and_contrasts_as_its_class(tmp_path):
    torch.manual_seed(0)
    model = transformers.BlipForImageTextRetrieval(blip_config())
    model = saved(model, tmp_path, "BlipImageProcessor")
    peer = open_peer("blip-itm", str(tmp_path))
    read = words(tmp_path, TEXTS)
    for question, scores in zip(shown(), peer.match(shown()), strict=True):
        pixel = pixels(tmp_path, [question.image])["pixel_values"].expand(3, -1, -1, -1)
        theirs = model(**read, pixel_values=pixel).itm_score
        torch.testing.assert_close(torch.tensor(scores), theirs[:, 1] - theirs[:, 0])
        torch.testing.assert_close(peer.rerank(question.image, TEXTS), theirs[:, 1])
    everything = pixels(tmp_path, images())["pixel_values"]
    cosines = model(**read, pixel_values=everything, use_itm_head=False).itm_score
    ours = peer.image_features(images())[:, 0] @ peer.text_features(TEXTS).T
    torch.testing.assert_close(ours, cosines)


VILT = {
    **tiny.shape(), "vocab_size": 120, "max_position_embeddings": 40, "max_image_length": -1,
    "num_images": -1,
}  # fmt: skip
VILT_PROCESSOR = {"size": {"shortest_edge": 32}, "size_divisor": 8}


@torch.no_grad()
def test_vilt_answers_with_the_label_of_its_class(tmp_path):
    torch.manual_seed(0)
    labels = dict(enumerate(["red", "blue", "a yellow cat", "two", "three"]))
    config = transformers.ViltConfig(
        **VILT, id2label=labels, label2id={name: number for number, name in labels.items()}
    )
    model = saved(
        transformers.ViltForQuestionAnswering(config), tmp_path, "ViltImageProcessor",
        **VILT_PROCESSOR,
    )  # fmt: skip
    peer = open_peer("vilt-vqa", str(tmp_path))
    for question, answer in zip(shown(), peer.write(shown(), "vqa"), strict=True):
        logits = model(
            **words(tmp_path, [question.text]), **pixels(tmp_path, [question.image])
        ).logits[0]
        assert answer == labels[int(logits.argmax())]
        likelihoods = peer.choose([question])[0]
        known = torch.sigmoid(logits[2]).log()
        assert likelihoods[1].total == pytest.approx(float(known), abs=1e-5)
        assert likelihoods[0].total == -torch.inf  # not among its answers


@torch.no_grad()
def test_vilt_matches_as_its_class(tmp_path):
    torch.manual_seed(0)
    model = transformers.ViltForImageAndTextRetrieval(transformers.ViltConfig(**VILT))
    model = saved(model, tmp_path, "ViltImageProcessor", **VILT_PROCESSOR)
    peer = open_peer("vilt-itm", str(tmp_path))
    question = shown()[0]
    read, pixel = words(tmp_path, TEXTS), pixels(tmp_path, [question.image])
    theirs = model(
        **read, **{key: value.expand(3, *value.shape[1:]) for key, value in pixel.items()}
    )
    torch.testing.assert_close(torch.tensor(peer.match([question])[0]), theirs.logits[:, 0])


def clip(folder):
    config = transformers.CLIPConfig(
        text_config={**TEXT, "projection_dim": 16},
        vision_config={**tiny.shape(), "projection_dim": 16},
        projection_dim=16,
    )
    more = {"crop_size": SIZE, "size": {"shortest_edge": tiny.IMAGE_SIZE}}
    return saved(transformers.CLIPModel(config), folder, "CLIPImageProcessor", **more)


def align(folder):
    config = transformers.AlignConfig(
        text_config=TEXT,
        vision_config={
            "image_size": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1,
            "hidden_dim": 8, "in_channels": [32, 16], "out_channels": [16, 32],
            "kernel_sizes": [3, 3], "strides": [1, 2], "num_block_repeats": [1, 1],
            "expand_ratios": [1, 2], "depthwise_padding": [],
        },
        projection_dim=8,
    )  # fmt: skip
    return saved(transformers.AlignModel(config), folder, "EfficientNetImageProcessor")


@torch.no_grad()
@pytest.mark.parametrize("build", [clip, align])
def test_clip_and_align_compare_as_their_class(build, tmp_path):
    torch.manual_seed(0)
    model = build(tmp_path)
    peer = open_peer(build.__name__, str(tmp_path))
    theirs = model(**words(tmp_path, TEXTS), **pixels(tmp_path, images()))
    cosines = theirs.image_embeds @ theirs.text_embeds.T  # of unit length, as both classes give
    ours = peer.image_features(images())[:, 0] @ peer.text_features(TEXTS).T
    torch.testing.assert_close(ours, cosines, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.tensor(peer.match(shown())), cosines, atol=1e-5, rtol=1e-5)
    read = words(tmp_path, [f"a photo of a {name}" for name in ("cat", "red star", "house")])
    named = model(**read, **pixels(tmp_path, images()))
    best = (named.image_embeds @ named.text_embeds.T).argmax(1).tolist()
    names = ("cat", "red star", "house")
    asked = [Question(image, "what is this?", choices=names) for image in images()]
    assert peer.name_it(asked) == [names[index] for index in best]


POOLING = "sentence_transformers.models."


def sentence_encoder(folder, pooling=None, *more):
    """A BERT as Sentence-Transformers writes it; pooling: what 1_Pooling/config.json says."""
    torch.manual_seed(0)
    values = {k: v for k, v in TEXT.items() if k not in ("encoder_hidden_size", "sep_token_id")}
    model = tiny.lively(transformers.BertModel(transformers.BertConfig(**values))).eval()
    model.save_pretrained(folder)
    bert(folder)
    if pooling is not None:
        parts = [("Transformer", ""), ("Pooling", "1_Pooling"), *more, ("Normalize", "3_Normalize")]
        modules = [{"path": path, "type": POOLING + kind} for kind, path in parts]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return model


OLD = {"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": False}


@torch.no_grad()
@pytest.mark.parametrize(
    ("written", "pooling"),
    [
        (None, "mean"), ({**OLD, "pooling_mode_mean_tokens": True}, "mean"),
        ({**OLD, "pooling_mode_cls_token": True}, "cls"), ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)  # fmt: skip
def test_sentences_are_compared_as_sentence_transformers_does(written, pooling, tmp_path):
    """Mean over the tokens that are shown, or the first token's state; then the cosine."""
    model = sentence_encoder(tmp_path, written)
    encoder = SentenceEncoder.open(tmp_path)
    states = [model(**words(tmp_path, [text])).last_hidden_state[0] for text in TEXTS]
    alone = torch.stack([one.mean(0) if pooling == "mean" else one[0] for one in states])
    torch.testing.assert_close(
        encoder.encode(TEXTS), torch.nn.functional.normalize(alone, dim=-1), atol=1e-5, rtol=1e-4
    )
    cosines = torch.nn.functional.cosine_similarity(alone[0], alone, dim=-1).tolist()
    found = encoder.nearest(
        [TEXTS[0], TEXTS[0], " ", TEXTS[0]], [TEXTS[1:2], TEXTS[1:], TEXTS, ["", TEXTS[2]]]
    )
    expected = [cosines[1], max(cosines[1:]), 0, max(0, cosines[2])]
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_sentence_encoder_that_ends_otherwise_is_refused(tmp_path):
    sentence_encoder(tmp_path / "max", {"pooling_mode": "max"})
    with pytest.raises(CheckpointError, match="pools by max"):
        SentenceEncoder.open(tmp_path / "max")
    sentence_encoder(tmp_path / "dense", {"pooling_mode": "mean"}, ("Dense", "2_Dense"))
    with pytest.raises(CheckpointError, match="ends in Dense"):
        SentenceEncoder.open(tmp_path / "dense")


def test_an_unknown_peer_is_named_with_the_nearest(tmp_path):
    with pytest.raises(LoupeError, match="did you mean 'clip'"):
        open_peer("clp", str(tmp_path))
    with pytest.raises(CheckpointError, match="no folder"):
        open_peer("clip", str(tmp_path / "nothing here"))


def test_a_folder_of_another_class_is_refused(tmp_path):
    tiny.vit(tmp_path)
    for kind in PEERS:
        with pytest.raises(CheckpointError):
            open_peer(kind, str(tmp_path))


def test_a_peer_stands_beside_loupe_in_one_run(tmp_path):
    """CLIP names crops of regions out of all names in the data, in the same run."""
    torch.manual_seed(0)
    clip(tmp_path / "clip")
    (tmp_path / "images").mkdir()
    things = []
    for number, image in enumerate(images(2)):
        Image.fromarray(image.numpy()).save(tmp_path / "images" / f"{number}.png")
        for category in (1, 2):
            region_mask = torch.zeros(40, 56, dtype=torch.bool)
            region_mask[10:30, 20 * category - 10 : 20 * category + 5] = True
            things.append({
                "id": len(things), "image_id": number, "category_id": category,
                "segmentation": encode_rle(region_mask),
            })  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps({
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "red star"}],
        "annotations": things,
    }))  # fmt: skip
    model = tiny.loupe(tmp_path / "loupe")
    sentence_encoder(tmp_path / "sentences")
    out = tmp_path / "out"
    words = ["--model", str(model), "--peer", f"clip={tmp_path / 'clip'}", "--out", str(out),
             "--sentence-encoder", str(tmp_path / "sentences")]  # fmt: skip
    assert main(["coco-what", "--data", str(tmp_path), *words]) == 0
    found = json.loads((out / "scores.json").read_text())
    systems = found["systems"]
    assert {"majority", "loupe: regions", "clip: box crop", "clip: no region"} <= systems.keys()
    assert "clip: regions" not in systems
    assert found["models"]["clip"]["class"] == "CLIPModel"
    assert len(found["sentence_encoder"]["sha256"]) == 64
    right, near = (
        systems["clip: box crop"]["scores"][name]["value"] for name in ("accuracy", "similarity")
    )
    assert right <= near + 1e-6
    assert systems["majority"]["scores"]["accuracy"]["chance"] == 0.5
    assert "sentence encoder" in (out / "page.html").read_text()
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()[1:]]
    answers = [line for line in lines if "answer" in line]
    named = {line["answer"] for line in answers if line["system"].startswith("clip")}
    assert named <= {"cat", "red star"}
