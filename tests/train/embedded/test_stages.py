"""Each stage's data and losses; what stage 2 trains on is what a Conversation puts."""

import copy
import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adapters.fresh import fresh_segmenter
from adapters.vision import open_vision_encoder
from qformer.assistant import Assistant, AssistantConfig
from qformer.bridge import Bridge
from qformer.contracts import Decoding
from qformer.regions import box_geometry, patch_coverage
from train.embedded.language import SPECIALS, LanguageStage
from train.embedded.pool import Pool, clumsy
from train.embedded.segmenter import SegmenterStage, correcting_clicks, fit_square
from train.embedded.stages import Stage1Stage, Stage2Stage, fill_rows, region_rows
from train.notes import NotesConfig
from train.scenes.dialogue import painted_scene
from train.scenes.scene import SIZES

# ---- the frozen parts


def test_in_a_document_the_answers_alone_count_in_full(pipeline, tiny_config):
    tokenizer = pipeline.tokenizer()
    stage = LanguageStage(torch.nn.Identity(), tokenizer, tiny_config.prompt, batch=1)
    before_an_answer = tokenizer(" answer:")[-1]
    for seed in range(20):
        ids, labels, weights = stage.document(np.random.default_rng(seed))
        heard = [i for i in range(len(ids)) if ids[i] != labels[i]]
        assert all(weights[i] == 1.0 for i in heard)
        assert (ids[0], weights[0]) == (SPECIALS["bos_id"], 0.0)
        assert set(weights[1:]) == {0.1, 1.0}
        assert 1 <= ids.count(SPECIALS["eos_id"]) <= 3
        assert weights[-1] == 1.0
        for i in range(1, len(ids)):
            starts = weights[i] == 1.0 and weights[i - 1] != 1.0
            ends = weights[i] == 1.0 and weights[i + 1 : i + 2] != [1.0]
            assert not starts or ids[i - 1] == before_an_answer
            assert ends == (ids[i] == SPECIALS["eos_id"])


def test_padding_has_no_weight(pipeline, tiny_config):
    stage = LanguageStage(torch.nn.Identity(), pipeline.tokenizer(), tiny_config.prompt, batch=6)
    batch = stage.batch(np.random.default_rng(0))
    assert batch["weights"][batch["input_ids"] == SPECIALS["pad_id"]].sum() == 0


def test_the_segmenter_learns_one_batch():
    torch.manual_seed(0)
    stage = SegmenterStage(fresh_segmenter(48, 8, 16, 2, 2), batch=2)
    batch = stage.batch(np.random.default_rng(1))
    optimizer = torch.optim.AdamW([p for p in stage.module.parameters() if p.requires_grad], 3e-3)
    seen = []
    for _ in range(30):
        losses = stage.losses(batch)
        seen.append({name: value.item() for name, value in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for name in ("click", "box", "second"):
        assert seen[-1][name] < 0.9 * seen[0][name]


def test_clicks_and_boxes_point_at_their_masks():
    stage = SegmenterStage(fresh_segmenter(48, 8, 16, 2, 2), batch=4)
    batch = stage.batch(np.random.default_rng(0))
    masks = batch["region_masks"].flatten(0, 1)
    for mask, (x, y) in zip(masks, batch["points"].flatten(0, 1), strict=True):
        assert mask[int(y), int(x)]
    for mask, box in zip(masks, batch["boxes"].flatten(0, 1), strict=True):
        ys, xs = mask.nonzero(as_tuple=True)
        tight = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        slack = 0.1 * (tight[2:] - tight[:2]).repeat(2)
        assert ((box - tight).abs() <= slack + 1e-3).all()


def test_a_correcting_click_lies_where_the_answer_is_wrong():
    target = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    target[..., 4:8, 4:8] = True
    missed, spilled = torch.full((1, 1, 16, 16), -5.0), torch.where(target, 5.0, -5.0)
    spilled[..., 12, 13] = 5.0
    points, label = correcting_clicks(missed, target)
    assert target[0, 0, int(points[0, 0, 1]), int(points[0, 0, 0])]
    assert label.item() == 1
    points, label = correcting_clicks(spilled, target)
    assert (points[0, 0].tolist(), label.item()) == ([13.5, 12.5], 0)
    points, label = correcting_clicks(torch.where(target, 5.0, -5.0), target)
    assert label.item() == 1


def test_the_segmenter_trains_on_what_its_adapter_sees(pipeline):
    from adapters.segmenter_sam import SamSegmenter

    segmenter = SamSegmenter.open(pipeline.parts / "segmenter")
    _, picture, masks = painted_scene(np.random.default_rng(4))
    side = segmenter.model.config.vision_config.image_size
    ours, _ = fit_square(picture, masks, side)
    theirs, _ = segmenter.preprocess(torch.from_numpy(picture))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# ---- the bridge


@pytest.fixture(scope="module")
def pool(pipeline):
    """The pool, its coverage and picture in full precision: no rounding hides a difference."""
    pool = Pool(pipeline.folder / "pool_train")
    pool.coverage = pool.coverage.float()
    grid = open_vision_encoder(pipeline.parts / "vision").grid
    for picture in range(len(pool)):
        for item, mask in enumerate(clumsy_masks(pool, picture)):
            exact = patch_coverage(torch.from_numpy(mask), grid)
            torch.testing.assert_close(pool.coverage[picture, item], exact, rtol=1e-3, atol=1e-6)
            pool.coverage[picture, item] = exact
    return pool


def painted(pool, picture):
    return painted_scene(np.random.default_rng((pool.seed, picture)), pool.pairs)


def clumsy_masks(pool, picture):
    scene, _, masks = painted(pool, picture)
    return clumsy(masks, scene.seed)


def test_a_pool_knows_its_scenes(pool):
    for picture in range(len(pool)):
        scene, _, _ = painted(pool, picture)
        assert pool.scene(picture) == scene
        for item, mask in enumerate(clumsy_masks(pool, picture)):
            ys, xs = np.nonzero(mask)
            box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            expected = box_geometry(box, int(mask.sum()), mask.shape)
            torch.testing.assert_close(pool.geometry[picture, item], expected)


def test_a_pool_holds_what_the_encoder_says(pool, pipeline):
    vision = open_vision_encoder(pipeline.parts / "vision")
    embeds = pool.image_embeds([0, 5])
    for row, picture in enumerate((0, 5)):
        pixels = vision.preprocess(torch.from_numpy(painted(pool, picture)[1]))
        exact = vision.encode(pixels[None])[0]
        torch.testing.assert_close(embeds[row], exact, rtol=0.1, atol=0.1)  # bfloat16


def test_an_item_out_of_sight_reads_the_whole_picture(pool):
    rows = region_rows(pool, [[None, 0]], [0])
    assert rows.is_region.tolist() == [False, True]
    assert (rows.patch_coverage[0] == 1).all()
    blind = SimpleNamespace(coverage=torch.zeros(1, 6, 16), geometry=pool.geometry)
    hidden = region_rows(blind, [[None, 0]], [0])
    assert hidden.is_region.tolist() == [False, False]
    assert (hidden.patch_coverage == 1).all()


def test_stage_1_pairs_each_row_with_its_words(pool, pipeline, tiny_config):
    shape = dataclasses.replace(tiny_config.bridge, instruct=False, language_width=None)
    torch.manual_seed(0)
    tokenizer = pipeline.tokenizer()
    stage = Stage1Stage(Bridge(shape), tokenizer, pool, batch=4)
    batch = stage.batch(np.random.default_rng(0))
    assert len(batch["rows"]) == len(batch["input_ids"]) == len(batch["same"]) == 16
    texts = [
        tokenizer.decode(ids[mask.bool()].tolist()[1:])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert len(set(texts)) == len(batch["same"].unique())
    for text, is_region in zip(texts, batch["rows"].is_region, strict=True):
        assert not is_region or (" and " not in text and text.split()[0] in ("a", "an"))
    losses = stage.losses(batch)
    assert set(losses) == {"itc", "itm", "itg"}
    sum(losses.values()).backward()
    assert stage.bridge.region_upgrade.delta.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def stage(pool, pipeline, tiny_config):
    """Stage 2 on a bridge in which every part of the region upgrade matters."""
    from adapters.language_decoder import DecoderLanguageModel

    torch.manual_seed(0)
    shape = tiny_config.bridge  # on a grid of 4 x 4 every region is small: no focal crops
    region = dataclasses.replace(shape.region, focal_patches=0)
    bridge = Bridge(dataclasses.replace(shape, region=region)).eval()
    for parameter in bridge.region_upgrade.parameters():
        torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
    for parameter in bridge.qformer.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    language = DecoderLanguageModel.open(pipeline.parts / "language")
    tokenizer = pipeline.tokenizer()
    return Stage2Stage(bridge, language, tokenizer, tiny_config.prompt, pool, batch=2, passes=9)


@pytest.mark.parametrize("passes", [3, 9, 22])
def test_turns_fill_their_rows_exactly(pool, passes):
    for seed in range(30):
        scene = pool.scene(seed % len(pool))
        turns = fill_rows(scene, np.random.default_rng(seed), passes)
        assert sum(1 + len(turn.question.regions) for turn in turns) == passes
        for turn in turns:
            if turn.before is not None:
                assert any(turn.before is other for other in turns)
                assert turn.before.before is None


def spied(language, monkeypatch):
    """A language model that says what it is told to, and keeps what it reads."""
    reads, answers = [], []

    def generate(inputs_embeds, decoding, prefix=None, answer_stop=None):
        reads.append(torch.stack([*prefix, *inputs_embeds]))
        ids = answers.pop(0)
        yield from ids[:-1].tolist()
        prefix += [*inputs_embeds, *language.embed(ids)]

    monkeypatch.setattr(language, "new_prefix", list)
    monkeypatch.setattr(language, "generate", generate)
    return reads, answers


@torch.no_grad()
def test_training_reads_what_a_conversation_reads(stage, pipeline, monkeypatch):
    """Region rows, instruction, geometry on names, earlier turns: token for token."""
    vision = open_vision_encoder(pipeline.parts / "vision")
    config = AssistantConfig(stage.prompt, Decoding(max_new_tokens=8))
    assistant = Assistant(vision, stage.bridge, stage.language, None, config, stage.tokenizer)
    reads, answers = spied(stage.language, monkeypatch)
    compared = {"alone": 0, "after": 0, 0: 0, 1: 0, 2: 0}
    for pictures in ([0, 5], [1, 7], [2, 3], [8, 11]):
        rng = np.random.default_rng(pictures[0])
        turns = [fill_rows(stage.pool.scene(p), rng, 22) for p in pictures]
        batch = stage.ask(pictures, turns)
        prompts, wanted = stage.prompts(batch, stage.soft_tokens(batch)), stage.answers(batch)
        owners = [p for p, these in zip(pictures, turns, strict=True) for _ in these]
        for picture, asked, prompt, answer in zip(
            owners, batch["asked"], prompts, wanted, strict=True
        ):
            view = assistant.encode(torch.from_numpy(painted(stage.pool, picture)[1]))
            view._image_embeds, view._memory = stage.pool.image_embeds([picture]), None
            masks = clumsy_masks(stage.pool, picture)
            known, talk, turn = {}, view.converse(), asked.turn
            for one in [turn.before, turn] if turn.before else [turn]:
                keys = zip(one.question.regions, one.question.names, strict=True)
                regions = [
                    known.setdefault(key, view.region(torch.from_numpy(masks[key[0]]), key[1]))
                    for key in keys
                ]
                answers.append(stage.answer_ids(one))
                said = "".join(talk.ask(one.text, regions))
                assert said == one.question.answer
            assert reads[-1].shape == prompt.shape
            torch.testing.assert_close(reads[-1], prompt, rtol=1e-5, atol=1e-5)
            assert answer.tolist() == stage.answer_ids(turn).tolist()
            compared["after" if turn.before else "alone"] += 1
            compared[len(turn.question.regions)] += 1
    assert min(compared.values()) >= 10, compared


def test_right_agrees_with_greedy_writing(stage):
    """On a language model that has learned some of the answers by heart."""
    language = copy.deepcopy(stage.language)
    ours = Stage2Stage(stage.bridge, language, stage.tokenizer, stage.prompt, stage.pool, batch=3)
    known, fresh = (ours.batch(np.random.default_rng(seed)) for seed in (0, 1))
    optimizer = torch.optim.AdamW([p.requires_grad_() for p in language.parameters()], 1e-2)
    for _ in range(50):
        loss = ours.losses(known)["answer"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ours.bridge.zero_grad(set_to_none=True)
    marks, truth = [], []
    for batch in (known, fresh):
        marks += ours.right(batch)
        with torch.no_grad():
            prompts = ours.prompts(batch, ours.soft_tokens(batch))
            for prompt, answer in zip(prompts, ours.answers(batch), strict=True):
                written = list(language.generate(prompt, Decoding(max_new_tokens=40)))
                truth.append(written == answer.tolist()[:-1])
    assert marks == truth
    assert 10 < sum(marks) < len(marks) - 10


def test_pictures_grow_from_two_objects_to_all(stage, pool):
    def most(progress):
        batches = (stage.batch(np.random.default_rng(seed), progress) for seed in range(6))
        shown = torch.cat([batch["image_embeds"] for batch in batches])
        every = pool.image_embeds(range(len(pool)))
        return max(
            len(pool.scene(int((every == one).flatten(1).all(1).nonzero()[0, 0])).items)
            for one in shown
        )

    assert most(0.0) <= 2 < most(0.3)


def test_soft_tokens_are_shown_the_notes_about_their_source(stage):
    batch = stage.batch(np.random.default_rng(3), 0.5)
    notes, seen = {}, set()
    for row, ids in batch["notes"]:
        notes.setdefault(row, []).append(stage.tokenizer.decode(ids))
    for one in batch["asked"]:
        question = one.turn.question
        about_picture, *about_regions = (
            notes[one.start + k] for k in range(1 + len(question.regions))
        )
        seen.add(question.type)
        if question.type == "caption":  # both words of an object, in two notes of one row
            named = [name.split(" ", 1)[1] for name in re.split(", | and ", question.answer)]
            shown = zip(*(note.split() for note in about_picture), strict=True)
            assert [" ".join(pair) for pair in shown] == named[: len(about_picture[0].split())]
            continue
        assert question.evidence.startswith(about_picture[0])
        for note in about_regions:
            assert note[0].split()[0] in SIZES
    assert len(seen) > 3


def test_notes_alone_come_first_and_do_without_the_language_model(stage, monkeypatch):
    monkeypatch.setattr(stage, "notes", NotesConfig(alone=0.4))
    alone = stage.losses(stage.batch(np.random.default_rng(0), 0.3))
    both = stage.losses(stage.batch(np.random.default_rng(0), 0.4))
    assert set(alone) == {"notes"}
    assert set(both) == {"answer", "notes"}


def test_the_scaffold_of_notes_is_gone_at_the_end(stage):
    losses = stage.losses(stage.batch(np.random.default_rng(0), 1.0))
    assert losses["notes"].item() == 0 < losses["answer"].item()


def test_stage_2_reaches_the_bridge_and_not_the_language_model(stage):
    loss = stage.losses(stage.batch(np.random.default_rng(0)))["answer"]
    loss.backward()
    bridge = stage.bridge
    for parameter in (bridge.language_projection.weight, bridge.region_upgrade.geometry.weight):
        assert parameter.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in stage.language.parameters())
    bridge.zero_grad(set_to_none=True)
