"""LAVIS -> Loupe -> Hugging Face -> Loupe -> LAVIS: every bit comes back, every key is told of."""

import json
import shutil

import pytest
import test_golden_stage2 as stage2
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_golden_stage1 import GOLDEN
from whole import QUERIES, QUESTION, bert, make

from adapters import lavis_vision
from adapters.build import build, build_ranker
from adapters.convert import convert
from demo import cli
from qformer.contracts import CheckpointError, Decoding

transformers = pytest.importorskip("transformers")

golden, vision, language, files = stage2.golden, stage2.vision, stage2.language, stage2.files


def same(first, second):
    """Bit for bit, dtype too."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype, name
        assert torch.equal(value, second[name]), name


def weights_of(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    bert(folder)
    return folder


@pytest.fixture(scope="module")
def stage1(golden, tmp_path_factory):
    """A LAVIS .pth tuned for retrieval: Q-Former, three heads and the vision encoder, in half
    precision here and there."""
    with safe_open(GOLDEN / "qformer_weights_lavis.safetensors", "pt") as file:
        weights = {f"Qformer.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    step = load_file(GOLDEN / "stage1_losses.safetensors")
    weights |= {name[2:]: value for name, value in step.items() if name.startswith("w.")}
    visual = {n: v for n, v in stage2.named(golden, "lavis.").items() if n.startswith("visual")}
    weights |= {name: value.half() for name, value in visual.items()}
    weights["ln_vision.weight"] = golden["lavis.ln_vision.weight"]
    weights["ln_vision.bias"] = golden["lavis.ln_vision.bias"]
    file = tmp_path_factory.mktemp("stage1") / "retrieval.pth"
    torch.save({"model": weights, "epoch": 3}, file)
    return file


def test_a_stage1_file_survives_all_three_forms(stage1, words, vision, tmp_path):
    first = convert(stage1, tmp_path / "first", "loupe", tokenizer=words, num_heads=4)
    assert first.homeless == ()
    second = convert(tmp_path / "first", tmp_path / "hf", "hf")
    assert second.form == "Blip2ForImageTextRetrieval"
    assert "temperature" in second.beside
    assert {name.split(".")[0] for name in second.beside} == {"temperature", "generation_head"}
    convert(tmp_path / "hf", tmp_path / "again", "loupe")
    same(weights_of(tmp_path / "first"), weights_of(tmp_path / "again"))
    told = [json.loads((tmp_path / n / "config.json").read_text()) for n in ("first", "again")]
    assert told[0]["bridge"] == told[1]["bridge"]
    assert told[0]["bridge"]["image_norm_eps"] == 1e-5
    convert(tmp_path / "again", tmp_path / "back.pth", "lavis")
    original = torch.load(stage1)["model"]
    original.pop("Qformer.bert.embeddings.position_ids", None)  # 0, 1, 2, ...
    back = torch.load(tmp_path / "back.pth")["model"]
    original["temp"] = original["temp"].reshape(back["temp"].shape)
    same(original, back)


def test_a_stage1_file_scores_the_same_in_every_form(stage1, words, tmp_path):
    convert(stage1, tmp_path / "loupe", "loupe", tokenizer=words, num_heads=4)
    convert(tmp_path / "loupe", tmp_path / "hf", "hf")
    generator = torch.Generator().manual_seed(5)
    images = [torch.randint(0, 256, (30, 20, 3), generator=generator).byte() for _ in range(3)]
    ours, theirs = (build_ranker(tmp_path / form) for form in ("loupe", "hf"))
    theirs.bridge.image_layernorm.eps = ours.bridge.image_layernorm.eps
    pairs = zip(ours.rank(images, "red"), theirs.rank(images, "red"), strict=True)
    for one, other in pairs:
        assert (one.index, one.score) == (other.index, pytest.approx(other.score, abs=1e-5))
    opened = transformers.Blip2ForImageTextRetrieval.from_pretrained
    model = opened(tmp_path / "hf", dtype=torch.float32).eval()
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")("red", return_tensors="pt")
    pixels = theirs.vision.preprocess(images[0])[None]
    with torch.no_grad():
        cosine = model(pixel_values=pixels, **read, use_image_text_matching_head=False)
    in_place = build_ranker(tmp_path / "hf")  # with the eps that transformers has
    found = next(match for match in in_place.rank(images, "red") if match.index == 0)
    assert found.itc == pytest.approx(cosine.logits_per_image.item(), abs=1e-5)


def test_a_stage2_file_gives_the_golden_answer_in_every_form(files, golden, tmp_path):
    parts = {"vision": files / "vision", "language": files / "language", "num_heads": 4}
    report = convert(files / "stage2.pth", tmp_path / "loupe", "loupe", **parts)
    assert {name.split(".")[0] for name in report.homeless} == {"opt_model"}
    convert(tmp_path / "loupe", tmp_path / "hf", "hf")
    words = [int(i) for i in golden["in.prompt_ids"][0, 1:]]
    expected = golden["out.generated_ids_greedy"][0].tolist()
    for folder in (tmp_path / "loupe", tmp_path / "hf"):
        assistant = build(folder)
        assistant.vision.preprocess = lambda image: golden["in.pixel_values"][0]
        view = assistant.encode(torch.zeros(56, 56, 3, dtype=torch.uint8))
        plan = view.converse().plan("x", ())
        soft = view.soft_tokens(plan.sources)["picture"]
        embed = assistant.language.embed
        prompt = torch.cat([soft, embed(torch.tensor([2, *words]))])
        ids = list(assistant.language.generate(prompt, Decoding(max_new_tokens=10)))
        assert ids == [i for i in expected if i > 3]
    model = transformers.Blip2ForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    ids = torch.tensor([[*[model.config.image_token_index] * 8, 2, *words]])
    written = model.generate(
        pixel_values=golden["in.pixel_values"][:1], input_ids=ids, max_new_tokens=10,
        do_sample=False,
    )[0].tolist()  # fmt: skip
    assert [i for i in written[-10:] if i > 3 and i != model.config.image_token_index][-9:] == (
        [i for i in expected if i > 3][-9:]
    )


KINDS = [("blip2", "opt"), ("blip2", "t5"), ("instructblip", "llama"), ("instructblip", "t5")]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_published_model_survives_all_forms_and_answers_the_same(kind, tmp_path, image):
    folder, _ = make(*kind, tmp_path)
    convert(folder, tmp_path / "loupe", "loupe")
    convert(tmp_path / "loupe", tmp_path / "hf", "hf")
    convert(tmp_path / "hf", tmp_path / "again", "loupe")
    same(weights_of(tmp_path / "loupe"), weights_of(tmp_path / "again"))
    before, after = weights_of(folder), weights_of(tmp_path / "hf")
    shutil.rmtree(tmp_path / "again")
    tables = ("embed_tokens.weight", "lm_head.weight", "shared.weight")
    same(
        {name: value for name, value in before.items() if not name.endswith(tables)},
        {name: value for name, value in after.items() if not name.endswith(tables)},
    )
    decoding = Decoding(max_new_tokens=6)
    answers = [
        build(form).encode(image).ask(QUESTION, decoding=decoding)
        for form in (folder, tmp_path / "loupe", tmp_path / "hf")
    ]
    assert len(set(answers)) == 1
    convert(tmp_path / "loupe", tmp_path / "lavis.pth", "lavis")
    parts = {"vision": folder, "language": folder}
    words = {"tokenizer": folder / "qformer_tokenizer"} if kind[0] == "instructblip" else {}
    convert(tmp_path / "lavis.pth", tmp_path / "again", "loupe", **parts, **words, num_heads=4)
    same(weights_of(tmp_path / "loupe"), weights_of(tmp_path / "again"))


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_an_exported_folder_opens_in_transformers_and_answers_the_same(kind, tmp_path, image):
    folder, _ = make(*kind, tmp_path)
    convert(folder, tmp_path / "loupe", "loupe")
    convert(tmp_path / "loupe", tmp_path / "hf", "hf")
    family = {"blip2": "Blip2", "instructblip": "InstructBlip"}[kind[0]]
    opened = getattr(transformers, f"{family}ForConditionalGeneration").from_pretrained
    model, report = opened(tmp_path / "hf", output_loading_info=True, dtype=torch.float32)
    assert not any(report.values())
    ours = build(folder)
    text = ours.config.prompt.question.replace("{question}", QUESTION)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.convert_tokens_to_ids("<image>") == model.config.image_token_index
    ids = tokenizer("<image>" * QUERIES + text, return_tensors="pt", add_special_tokens=False)
    start = torch.tensor([[*ours.language.tokenizer.start_ids]], dtype=torch.long)
    read = torch.cat([ids["input_ids"][:, :QUERIES], start, ids["input_ids"][:, QUERIES:]], 1)
    if kind[1] == "t5":
        read = torch.cat([read, torch.tensor([[1]])], 1)
    more = {}
    if kind[0] == "instructblip":
        words = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf" / "qformer_tokenizer")
        asked = words(QUESTION, return_tensors="pt")
        more = {"qformer_input_ids": asked["input_ids"],
                "qformer_attention_mask": asked["attention_mask"]}  # fmt: skip
    written = model.eval().generate(
        pixel_values=ours.vision.preprocess(image)[None], input_ids=read, do_sample=False,
        max_new_tokens=6, **more,
    )[0].tolist()  # fmt: skip
    written = written[read.shape[1] :] if written[: read.shape[1]] == read[0].tolist() else written
    answer = ours.encode(image).ask(QUESTION, decoding=Decoding(max_new_tokens=6))
    stops = set(ours.language.stop_ids) | {0} if kind[1] == "t5" else set(ours.language.stop_ids)
    assert ours.language.decode([i for i in written if i not in stops]).strip() == answer


def test_clips_names_lead_there_and_back(tiny_folder):
    weights = load_file(tiny_folder("clip_trimmed") / "model.safetensors")
    theirs, homeless = lavis_vision.clip_to_lavis(weights)
    assert homeless == []
    assert theirs["transformer.resblocks.1.attn.in_proj_weight"].shape == (72, 24)
    same(lavis_vision.clip_from_lavis(theirs)[0], weights)
    assert lavis_vision.clip_from_lavis({"stray": torch.ones(1)}) == ({}, ["stray"])


class LavisClip(torch.nn.Module):
    """CLIP's vision encoder with the weights' names of LAVIS' clip_vit.py, without its last block
    and norm: 2 blocks, 24 wide, 4 patches."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 24, 14, 14, bias=False)
        self.class_embedding = torch.nn.Parameter(torch.randn(24))
        self.positional_embedding = torch.nn.Parameter(torch.randn(5, 24))
        self.ln_pre = torch.nn.LayerNorm(24)
        self.transformer = torch.nn.Module()
        self.transformer.resblocks = torch.nn.ModuleList(self.block() for _ in range(2))

    @staticmethod
    def block():
        block = torch.nn.Module()
        block.attn = torch.nn.MultiheadAttention(24, 3, batch_first=True)
        block.ln_1, block.ln_2 = torch.nn.LayerNorm(24), torch.nn.LayerNorm(24)
        block.mlp = torch.nn.Module()
        block.mlp.c_fc, block.mlp.c_proj = torch.nn.Linear(24, 96), torch.nn.Linear(96, 24)
        torch.nn.init.normal_(block.attn.in_proj_bias)
        return block

    def forward(self, pixel_values):
        patches = self.conv1(pixel_values).flatten(2).mT
        first = self.class_embedding.expand(len(patches), 1, -1)
        states = self.ln_pre(torch.cat([first, patches], 1) + self.positional_embedding)
        for block in self.transformer.resblocks:
            read = block.ln_1(states)
            states = states + block.attn(read, read, read, need_weights=False)[0]
            wide = block.mlp.c_fc(block.ln_2(states))
            states = states + block.mlp.c_proj(wide * torch.sigmoid(1.702 * wide))
        return states


def test_a_clip_in_a_lavis_file_reads_as_lavis_has_it_read(tmp_path):
    torch.manual_seed(2)
    theirs = LavisClip().eval()
    loose = lavis_vision.loose_vision(tmp_path / "vit_l.pth", theirs.state_dict(), None)
    assert loose.config["image_size"] == 28
    loose.config["num_attention_heads"] = 3  # those of the real one are 64 wide
    ours = lavis_vision.open_loose(loose, tmp_path / "vit_l.pth", torch.float32)
    pixel_values = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(pixel_values), theirs(pixel_values))


def test_a_vit_l_file_keeps_its_clip(stage1, words, tiny_folder, tmp_path):
    """LAVIS' ViT-L models: CLIP in the file, no home for it in Hugging Face's BLIP-2."""
    weights = torch.load(stage1)["model"]
    weights = {name: value for name, value in weights.items() if not name.startswith("visual")}
    clip = load_file(tiny_folder("clip_trimmed") / "model.safetensors")
    visual = lavis_vision.clip_to_lavis(clip)[0]
    weights |= {f"visual_encoder.{name}": value for name, value in visual.items()}
    for name, value in weights.items():  # this CLIP is 24 wide
        if "crossattention.self.key.w" in name or "crossattention.self.value.w" in name:
            weights[name] = value[:, :24].contiguous()
        if name.startswith("ln_vision"):
            weights[name] = value[:24].clone()
    torch.save({"model": weights}, tmp_path / "vit_l.pth")
    convert(tmp_path / "vit_l.pth", tmp_path / "loupe", "loupe", vision=tiny_folder("clip"),
            tokenizer=words, num_heads=4)  # fmt: skip
    same(load_file(tmp_path / "loupe" / "vision" / "model.safetensors"), clip)
    assert build_ranker(tmp_path / "loupe").vision.hidden_state == -1
    report = convert(tmp_path / "loupe", tmp_path / "hf", "hf")
    assert report.form == "Blip2QFormerModel"
    transformers.Blip2QFormerModel.from_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "again", "loupe")
    same(weights_of(tmp_path / "loupe"), weights_of(tmp_path / "again"))
    convert(tmp_path / "loupe", tmp_path / "back.pth", "lavis")
    back = torch.load(tmp_path / "back.pth")["model"]
    assert all(torch.equal(back[f"visual_encoder.{name}"], value) for name, value in visual.items())


def test_the_commands_convert_and_export(tmp_path, image, capsys):
    folder, _ = make("blip2", "opt", tmp_path)
    assert cli.main(["convert", str(folder), str(tmp_path / "loupe"), "--to", "loupe"]) == 0
    assert "a Loupe checkpoint" in capsys.readouterr().out
    words = ["export", str(tmp_path / "hf"), "--to", "hf", "--model", str(tmp_path / "loupe")]
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["form"], told["homeless"]) == ("Blip2ForConditionalGeneration", [])
    assert build(tmp_path / "hf").encode(image).ask(QUESTION)
    assert cli.main([*words]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_prompt_in_embeddings_is_answered_by_the_bare_language_model(
    kind, tmp_path, image, capsys
):
    from PIL import Image

    folder, model = make(*kind, tmp_path)
    Image.fromarray(image.numpy()).save(tmp_path / "scene.png")
    mask = torch.zeros(image.shape[:2], dtype=torch.bool)
    mask[5:30, 5:30] = True
    Image.fromarray(mask.numpy()).save(tmp_path / "mask.png")
    file = tmp_path / "prompt.safetensors"
    words = ["export", str(file), "--prompt-embeds", str(tmp_path / "scene.png"), QUESTION]
    assert cli.main([*words, "--mask", str(tmp_path / "mask.png"), "--model", str(folder)]) == 0
    embeds = load_file(file)["prompt_embeds"]
    assistant = build(folder)
    assert embeds.shape[1] == assistant.language.width
    written = (
        model.language_model.float()
        .eval()
        .generate(inputs_embeds=embeds[None].float(), do_sample=False, max_new_tokens=7)[0]
        .tolist()
    )
    view = assistant.encode(image)
    answer = view.ask(QUESTION, [view.region(mask)], Decoding(max_new_tokens=7))
    assert assistant.language.decode(written).strip() == answer
    assert view.ask(QUESTION, [], Decoding(max_new_tokens=7)) != answer or kind[1] == "llama"


def test_a_prompt_is_not_written_into_a_folder_that_is_not_there(tmp_path, capsys):
    file = tmp_path / "nowhere" / "prompt.safetensors"
    assert cli.main(["export", str(file), "--prompt-embeds", "scene.png", QUESTION]) == 2
    assert "make it first" in capsys.readouterr().err


def test_what_cannot_be_converted_says_why(stage1, files, tiny_folder, tmp_path):
    def refused(match, *arguments, **options):
        with pytest.raises(CheckpointError, match=match) as error:
            convert(*arguments, **options)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "new").exists()

    new = tmp_path / "new"
    refused("does not hold the tokenizer of its Q-Former .*--tokenizer", stage1, new, "loupe")
    refused("does not hold its language model", files / "stage2.pth", new, "hf",
            vision=files / "vision")  # fmt: skip
    refused("is no model that can be converted", tiny_folder("vit"), new, "hf")
    refused("names its own parts", tiny_folder("loupe"), new, "hf", vision="x/y")
    refused("let its name end in .pth", tiny_folder("loupe"), new, "lavis")
    weights = torch.load(stage1)["model"]
    torch.save({"model": weights | {"stray": torch.ones(1)}}, tmp_path / "odd.pth")
    refused("1 weights Loupe does not know: stray", tmp_path / "odd.pth", new, "loupe")


def test_a_model_of_another_encoder_gives_its_qformer_alone(tiny_folder, tmp_path):
    report = convert(tiny_folder("loupe"), tmp_path / "hf", "hf")
    assert report.form == "Blip2QFormerModel"
    assert any("the Q-Former alone" in remark for remark in report.remarks)
    _, told = transformers.Blip2QFormerModel.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(told.values())
    convert(tmp_path / "hf", tmp_path / "again", "loupe")
    same(weights_of(tiny_folder("loupe")), weights_of(tmp_path / "again"))


def test_lavis_files_open_as_they_are(stage1, words, tmp_path, image):
    """Beside their frozen parts, without a conversion."""
    convert(stage1, tmp_path / "loupe", "loupe", tokenizer=words)
    rankers = [build_ranker(tmp_path / "loupe"), build_ranker(stage1, tokenizer=words)]
    ours, theirs = (ranker.rank([image], "red")[0] for ranker in rankers)
    assert ours == theirs
    with pytest.raises(
        CheckpointError, match=r"does not hold the tokenizer of its Q-Former .*\(--tokenizer\)"
    ):
        build_ranker(stage1)
    folder, _ = make("instructblip", "llama", tmp_path)
    convert(folder, tmp_path / "instruct.pth", "lavis")
    named = {"vision": folder, "language": folder}
    with pytest.raises(CheckpointError, match=r"does not hold the tokenizer of its Q-Former"):
        build(tmp_path / "instruct.pth", **named)
    named["tokenizer"] = folder / "qformer_tokenizer"
    convert(tmp_path / "instruct.pth", tmp_path / "again", "loupe", **named)
    answers = [
        build(model, **options).encode(image).ask(QUESTION, decoding=Decoding(max_new_tokens=6))
        for model, options in ((tmp_path / "again", {}), (tmp_path / "instruct.pth", named))
    ]
    assert answers[0] == answers[1]


def test_a_tokenizer_too_large_for_an_image_token_is_refused(tmp_path):
    folder, _ = make("blip2", "opt", tmp_path)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    words.add_tokens([f"word{n}" for n in range(99)])
    words.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"has no <image> token and \d+ others, more than"):
        convert(folder, tmp_path / "hf", "hf")
    assert not (tmp_path / "hf").exists()
    assert build(folder)  # Loupe itself needs no such token


@pytest.mark.parametrize("form", ["loupe", "hf"])
def test_a_hub_id_that_cannot_be_had_says_how_to_bring_the_files(
    form, stage1, tmp_path, monkeypatch
):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("transformers.utils.cached_file", unreachable)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", unreachable)
    for options in ({"tokenizer": "some/bert"}, {"tokenizer": "some/bert", "vision": "some/eva"}):
        with pytest.raises(CheckpointError, match="copy the model's files into a folder"):
            convert(stage1, tmp_path / "new", form, **options)
