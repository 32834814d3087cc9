"""Notes: each soft token learns the word it is to be like, before and beside the answers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.build import build
from qformer.contracts import LoupeError
from train.data.folder import turns_of
from train.loop import fit
from train.notes import likeness, notes_loss
from train.plan import plan
from train.runs import Training

WORDS = torch.eye(4, 6)


def silent(line):
    pass


@pytest.fixture
def noted(recipe_of, little_data, tmp_path):
    """noted("notes.alone=0.5", ...): a recipe on questions that have two words of notes."""
    rows = [json.loads(line) for line in (little_data / "data.jsonl").read_text().splitlines()]
    asked = [{**row, "notes": "red"} for row in rows if "question" in row]
    file = tmp_path / "noted.jsonl"
    file.write_text("\n".join(map(json.dumps, asked)))
    images = little_data / "images"

    def recipe(*changes):
        own = [f'data.0.path="{file}"', f'data.0.images="{images}"', "notes.weight=1.0"]
        return recipe_of("instruct", *own, *changes)

    return recipe


def test_a_soft_token_that_is_its_word_loses_nothing():
    soft = torch.stack([5 * WORDS[2], 0.1 * WORDS[0]])[None]
    assert notes_loss(soft, [[2, 0]], WORDS) < 1e-4
    assert notes_loss(soft, [[0, 2]], WORDS) > 10
    torch.testing.assert_close(likeness(soft, WORDS).exp().sum(-1), torch.ones(1, 2))


def test_soft_tokens_without_a_note_are_left_alone():
    soft = torch.randn(2, 3, 6, requires_grad=True)
    notes_loss(soft, [[1], [2, 3]], WORDS).backward()
    assert [bool(soft.grad[row, n].any()) for row in (0, 1) for n in range(3)] == [
        True, False, False, True, True, False,
    ]  # fmt: skip


def test_a_word_that_is_noted_often_counts_less():
    often, seldom = torch.randn(1, 6), torch.randn(1, 6)
    soft = torch.cat([often.expand(9, -1), seldom])[None]
    found = notes_loss(soft, [[1] * 9 + [3]], WORDS)
    one = -likeness(often, WORDS)[0, 1]
    other = -likeness(seldom, WORDS)[0, 3]
    torch.testing.assert_close(found, (3 * one + other) / 4)  # 9 ** .5 against 1


def test_while_notes_are_learned_alone_the_language_model_is_not_read(noted, monkeypatch):
    training = Training(noted("notes.alone=0.5", "loop.steps=4", "lora.rank=4"), silent)
    reads = []
    read = training.parts.language.answer_logits
    monkeypatch.setattr(
        training.parts.language, "answer_logits", lambda *a: reads.append(1) or read(*a)
    )
    rng = np.random.default_rng(0)
    early = training.losses(training.batch(rng, progress=0.4, place=0))
    assert set(early) == {"notes"}
    assert not reads
    late = training.losses(training.batch(rng, progress=0.5, place=0))
    assert set(late) == {"answer", "notes"}
    assert reads


def test_soft_tokens_come_to_be_like_their_notes(noted, tmp_path):
    recipe = noted("notes.alone=0.9", "loop.steps=40", "loop.evaluate_every=0")
    training = Training(recipe, silent)
    batch = training.batch(np.random.default_rng(0), progress=0.0, place=0)
    before = training.losses(batch)["notes"].item()
    fit(training, recipe.loop, tmp_path / "run", silent)
    assert training.losses(batch)["notes"].item() < 0.5 * before


def test_where_nothing_has_notes_they_cannot_be_learned(noted, tmp_path):
    recipe, file = noted(), tmp_path / "noted.jsonl"
    file.write_text(file.read_text().replace('"notes"', '"note"'))
    with pytest.raises(LoupeError, match="no question"):
        Training(recipe, silent)


def test_questions_without_notes_go_with_them(noted):
    training = Training(noted(), silent)
    picture, samples = training.stage.mixture.at(0)
    plain = replace(samples[0], turns=(replace(samples[0].turns[0], notes=""),))
    ready = training.stage.ready((picture, [plain]), None)
    training.stage.sight.encode([ready[0]])
    found = training.losses(training.stage.ask([ready[0]], [ready[1]]) | {"alone": False})
    assert found["notes"].item() == 0.0


def test_more_notes_than_soft_tokens_are_a_bad_sample(noted, tiny_folder):
    queries = build(tiny_folder("loupe")).bridge.config.qformer.num_queries
    training = Training(noted(), silent)
    _, samples = training.stage.mixture.at(0)
    long = " ".join(["red"] * (queries + 1))
    sample = replace(samples[0], turns=(replace(samples[0].turns[0], notes=long),))
    with pytest.raises(LoupeError, match=r"start\.queries"):
        training.stage.wording.ask(sample, 0)
    training.stage.wording.notes = False  # where they are not learned they are not read either
    assert training.stage.wording.ask(sample, 0)[-1].notes == ()


def test_a_tuned_bridge_may_have_more_queries(noted, tiny_folder, image):
    old = build(tiny_folder("loupe")).bridge
    count = old.config.qformer.num_queries
    recipe = noted(f"start.queries={count + 3}", "loop.steps=1", "loop.lr=1e-9")
    training = Training(recipe, silent)
    tokens = training.parts.bridge.qformer.query_tokens
    assert torch.equal(tokens[:, :count], old.qformer.query_tokens)
    assert len(torch.unique(tokens[0], dim=0)) == count + 3  # none is another's copy
    assert plan(recipe).parts["bridge"].trained > plan(noted("loop.steps=1")).parts[
        "bridge"
    ].trained  # fmt: skip
    fit(training, recipe.loop, Path(recipe.output), silent)
    folder = Path(recipe.output) / "checkpoint"
    training.keep(folder)
    assistant = build(folder)
    region = assistant.encode(image).region(torch.ones(40, 60, dtype=torch.bool))
    assert assistant.bridge.config.qformer.num_queries == count + 3
    assert assistant.encode(image).ask("what colour?", [region]) is not None
    with pytest.raises(LoupeError, match="as many or more"):
        Training(noted("start.queries=1"), silent)


def test_a_start_may_be_shrunk_in_its_q_formers_matrices(noted, tiny_folder):
    old = build(tiny_folder("loupe")).bridge.state_dict()
    training = Training(noted("start.shrink=0.5"), silent)
    new = training.parts.bridge.state_dict()
    shrunk = {n for n in old if n.startswith("qformer.layers.") and old[n].ndim == 2}
    assert "qformer.layers.0.attention.query.weight" in shrunk
    for name, value in old.items():
        assert torch.equal(new[name], 0.5 * value if name in shrunk else value), name


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["start.shrink=0"], "start.shrink=0"),
        (["start.shrink=1.5"], "at most 1"),
        (['start.checkpoint=""', "start.shrink=0.5"], "needs start.checkpoint"),
        (["notes.weight=0"], "above 0"),
        (["notes.alone=1.0"], "below 1"),
        (['stage="stage1"'], "stage1 has none"),
    ],
)
def test_settings_that_make_no_sense_are_refused(noted, changes, says):
    with pytest.raises(LoupeError, match=says):
        noted(*changes)


def test_notes_are_read_from_a_line_and_from_a_conversation():
    said = {"question": "which?", "answer": "two", "notes": "no yes no"}
    for line in (said, {"conversation": [said]}):
        (turn,) = turns_of(line)
        assert turn.notes == "no yes no"
