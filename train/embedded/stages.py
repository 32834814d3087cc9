"""Stage 1 and stage 2 of the bridge over painted scenes, with region rows in both."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from qformer.bridge import Bridge, PassRows
from qformer.prompt import PICTURE, PromptConfig, assemble, declarations, instruction, lay_out
from qformer.stage1 import Stage1
from train.embedded.pool import Pool
from train.notes import NotesConfig, notes_loss
from train.scenes.dialogue import (
    MIXES,
    WEIGHTS,
    Turn,
    ask,
    heard,
    notes_of,
    turns_of,
)
from train.scenes.questions import PICTURE_TYPES, REGION_TYPES, a, caption, describe, in_order
from train.scenes.wordings import roughen
from train.stages import answers_loss, read_in_buckets

SIMPLE = 0.2  # of stage 2: until here pictures grow from two objects to all


def region_rows(pool: Pool, picks: list[list[int | None]], pictures: list[int]) -> PassRows:
    """Passes over some pictures: for each an item's number, or None for the whole picture."""
    patches = pool.coverage.shape[-1]
    flat = [(p, i) for p, items in zip(pictures, picks, strict=True) for i in items]
    which = torch.tensor([[p, 0 if i is None else i] for p, i in flat])
    is_region = torch.tensor([i is not None for _, i in flat])
    coverage = pool.coverage[which[:, 0], which[:, 1]].float()
    shown = coverage.sum(1, keepdim=True) > 0  # an item hidden from sight reads the whole picture
    coverage = torch.where(is_region[:, None] & shown, coverage, torch.ones(1, patches))
    return PassRows(coverage, is_region & shown[:, 0], pool.geometry[which[:, 0], which[:, 1]])


class Stage1Stage:
    """ITC, ITM and ITG: a caption for the picture, descriptions for three of its regions.

    bridge: one that does not read questions yet (instruct=False).
    """

    def __init__(self, bridge: Bridge, tokenizer, pool: Pool, batch: int, regions: int = 3):
        self.bridge, self.tokenizer, self.pool = bridge, tokenizer, pool
        self.count, self.regions = batch, regions
        self.module = nn.ModuleDict({"bridge": bridge, "stage1": Stage1(bridge.qformer)})

    def batch(self, rng: np.random.Generator, progress: float = 1.0, place: int = 0) -> dict:
        pictures = [int(i) for i in rng.choice(len(self.pool), self.count, replace=False)]
        picks, texts = [], []
        for p in pictures:
            scene = self.pool.scene(p)
            items = [int(i) for i in rng.permutation(len(scene.items))]
            items = (items * self.regions)[: self.regions]
            picks.append([None, *items])
            texts.append(caption(scene))
            # no size: "a small red star" is "a red star" too, and would be a false negative of it
            texts += [a(describe(scene.items[i], size=False)) for i in items]
        numbers = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        cls, eos = self.bridge.config.qformer.cls_id, 3
        ids = [torch.tensor([cls, *self.tokenizer(text), eos]) for text in texts]
        return {
            "image_embeds": self.pool.image_embeds(pictures),
            "rows": region_rows(self.pool, picks, pictures),
            "input_ids": pad_sequence(ids, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
            "same": torch.tensor([numbers[text] for text in texts]),
        }

    def losses(self, batch: dict) -> dict[str, Tensor]:
        inputs = self.bridge.inputs(self.bridge.remember(batch["image_embeds"]), batch["rows"])
        return self.module["stage1"].losses(
            inputs.pop("memory"),
            batch["input_ids"],
            batch["attention_mask"],
            batch["same"],
            **inputs,
        )


@dataclass
class Asked:
    """A turn and where its rows lie: the picture's first, then one for each region."""

    turn: Turn
    start: int


def fill_rows(
    scene, rng: np.random.Generator, passes: int, weights: dict[str, float] = WEIGHTS
) -> list[Turn]:
    """Turns that need exactly `passes` rows, a mixture of all groups; with other weights than the
    first, fewer about single regions."""
    several = len(scene.items) > 1
    if weights is not WEIGHTS:
        turns = turns_of(scene, rng, 4, 3, 3 * several, 1, weights)
    else:
        turns = turns_of(scene, rng, 3, 4, 2 * several, 2, weights)
    used = sum(1 + len(t.question.regions) for t in turns)
    while used > passes:
        last = next(i for i in reversed(range(len(turns))) if _ends(turns[i], turns))
        used -= 1 + len(turns.pop(last).question.regions)
    while used < passes:
        group = PICTURE_TYPES if passes - used == 1 or rng.random() < 0.4 else REGION_TYPES
        question = ask(scene, group, rng, weights)
        if question is None:
            question = ask(scene, {"caption": PICTURE_TYPES["caption"]}, rng)
        turns.append(Turn(question, roughen(question.text, rng)))
        used += 1 + len(question.regions)
    # Some questions stand alone but come second: what was said before must not confuse.
    for i, turn in enumerate(turns):
        if turn.before is None and _ends(turn, turns) and rng.random() < 0.2:
            before = turns[int(rng.integers(len(turns)))]
            if before is not turn and before.before is None:
                turns[i] = dataclasses.replace(turn, before=before)
    return turns


def _ends(turn: Turn, turns: list[Turn]) -> bool:
    """Whether nothing follows on it."""
    return all(other.before is not turn for other in turns)


class Stage2Stage:
    """Questions about pictures and regions, answered by the language model through the bridge.

    module: the bridge and the language model, of which LoRA trains if attached. batch: pictures a
    step. passes: rows for each, which its questions fill. notes: how what soft tokens are to be
    like is learned.
    """

    def __init__(
        self,
        bridge: Bridge,
        language,
        tokenizer,
        prompt: PromptConfig,
        pool: Pool,
        batch: int,
        passes: int = 22,
        notes: NotesConfig = NotesConfig(),  # noqa: B008 (frozen)
    ):
        self.bridge, self.language, self.tokenizer = bridge, language, tokenizer
        self.prompt, self.pool, self.count, self.passes = prompt, pool, batch, passes
        self.notes = notes
        self.module = nn.ModuleDict({"bridge": bridge, "language": language})

    def batch(self, rng: np.random.Generator, progress: float = 1.0, place: int = 0) -> dict:
        items = self.pool.items  # simple pictures first, as long as they fill a batch
        most = max(2 + int(4 * progress / SIMPLE), int(np.sort(items)[self.count - 1]))
        simple = np.flatnonzero(items <= most)
        pictures = [int(i) for i in rng.choice(simple, self.count, replace=False)]
        weights = next(mix for start, mix in reversed(MIXES) if progress >= start)
        turns = [fill_rows(self.pool.scene(p), rng, self.passes, weights) for p in pictures]
        batch = self.ask(pictures, turns)
        batch["read"] = [
            torch.tensor([*heard(answer, self.tokenizer, rng), self.language.eos_id])
            for answer in (one.turn.question.answer for one in batch["asked"])
        ]
        batch["notes"] = self._notes(pictures, batch["asked"])
        batch["alone"] = progress < self.notes.alone
        batch["fading"] = 1.0 if batch["alone"] else 1 - progress
        return batch

    def _notes(self, pictures: list[int], asked: list[Asked]) -> list[tuple[int, list[int]]]:
        """The words the soft tokens of a row should be like, as (row, ids): the notes from which
        the language model learned to answer. A caption's note is a place for each object, of two
        words at once: the row is there twice."""
        notes = []
        for one in asked:
            scene = self.pool.scene(pictures[one.start // self.passes])
            if one.turn.question.type == "caption":
                items = in_order(scene)
                notes.append((one.start, [self.tokenizer(item.colour)[0] for item in items]))
                notes.append((one.start, [self.tokenizer(item.kind)[0] for item in items]))
                continue
            about_picture, *about_regions = notes_of(scene, one.turn.question)
            if one.turn.question.type == "verify":  # the region itself knows best
                about_regions = [f"{about_regions[0]} {about_picture}"]
            for row, note in enumerate((about_picture, *about_regions), one.start):
                notes.append((row, self.tokenizer(note)))
        queries = self.bridge.config.qformer.num_queries
        return [(row, ids[:queries]) for row, ids in notes]

    def ask(self, pictures: list[int], turns: list[list[Turn]]) -> dict:
        """A batch of these turns; every picture's turns need the same number of rows."""
        picks, asked, texts = [], [], []
        row = 0
        for these in turns:
            picks.append([])
            for turn in these:
                question = turn.question
                asked.append(Asked(turn, row))
                picks[-1] += [None, *question.regions]
                previous = turn.before.text if turn.before else None
                ids, spans = instruction(
                    self.tokenizer, self.bridge.config, previous, question.names, turn.text
                )
                texts += [(ids, spans, question.regions)] * (1 + len(question.regions))
                row += 1 + len(question.regions)
        rows = region_rows(self.pool, picks, pictures)
        longest = max(len(ids) for ids, _, _ in texts)
        rows.input_ids = torch.zeros(row, longest, dtype=torch.long)
        rows.attention_mask = torch.zeros(row, longest, dtype=torch.long)
        rows.text_has_geometry = torch.zeros(row, longest, dtype=torch.bool)
        rows.text_geometry = torch.zeros(row, longest, 5)
        passes = row // len(pictures)
        for n, (ids, spans, regions) in enumerate(texts):
            rows.input_ids[n, : len(ids)] = torch.tensor(ids)
            rows.attention_mask[n, : len(ids)] = 1
            for (start, stop), item in zip(spans, regions, strict=True):
                rows.text_has_geometry[n, start:stop] = True
                rows.text_geometry[n, start:stop] = self.pool.geometry[pictures[n // passes], item]
        return {"image_embeds": self.pool.image_embeds(pictures), "rows": rows, "asked": asked}

    def soft_tokens(self, batch: dict) -> Tensor:
        """(rows, queries, language width)."""
        memory = self.bridge.remember(batch["image_embeds"])
        return self.bridge.project(self.bridge.query(memory, batch["rows"]))

    def prompts(self, batch: dict, soft_tokens: Tensor) -> list[Tensor]:
        """What the language model reads for each turn, (n, width)."""
        soft = soft_tokens.unbind()  # a row each
        by_turn = {id(one.turn): one for one in batch["asked"]}
        return [self._read(one, by_turn, soft) for one in batch["asked"]]

    def answers(self, batch: dict) -> list[Tensor]:
        return [self.answer_ids(one.turn) for one in batch["asked"]]

    def answer_ids(self, turn: Turn) -> Tensor:
        return torch.tensor([*self.tokenizer(turn.question.answer), self.language.eos_id])

    def _read(self, one: Asked, by_turn: dict, soft: tuple[Tensor, ...]) -> Tensor:
        if one.turn.before is None:
            return self._words(one, soft, first=True)
        before = by_turn[id(one.turn.before)]  # which opens its dialogue, see fill_rows
        said = self.language.embed(self.answer_ids(before.turn))
        opening = self._words(before, soft, first=True)
        return torch.cat([opening, said, self._words(one, soft, first=False)])

    def _words(self, one: Asked, soft: tuple[Tensor, ...], first: bool) -> Tensor:
        """One turn alone, as a Conversation puts it."""
        question = one.turn.question
        declare = declarations(self.prompt.composer, question.names)
        pieces = lay_out(self.prompt, one.turn.text, declare, first=first)
        tokens = {name: soft[one.start + k] for k, name in enumerate((PICTURE, *question.names))}
        return assemble(self.language, pieces, tokens)

    def losses(self, batch: dict) -> dict[str, Tensor]:
        """The answers, and how well the soft tokens spell the notes: a scaffold, which shows each
        of them early what to say, and fades."""
        soft, found = self.soft_tokens(batch), {}
        if not batch["alone"]:
            logits = read_in_buckets(self.language, self.prompts(batch, soft), batch["read"])
            found["answer"] = answers_loss(logits, self.answers(batch))
        rows, notes = zip(*batch["notes"], strict=True)
        words = self.language.model.get_input_embeddings().weight
        weight = self.notes.beside(batch["alone"]) * batch["fading"]
        found["notes"] = weight * notes_loss(soft[list(rows)], notes, words)
        return found

    @torch.no_grad()
    def right(self, batch: dict) -> list[bool]:
        """Whether each turn's greedy answer is exactly the right one: it is if and only if every
        token is the likeliest after the right ones before it."""
        answers = self.answers(batch)
        prompts = self.prompts(batch, self.soft_tokens(batch))
        logits = read_in_buckets(self.language, prompts, answers)
        return [
            bool((row.argmax(-1) == answer).all())
            for row, answer in zip(logits, answers, strict=True)
        ]
