"""The two ways a bridge learns from samples: to match and write texts, and to answer.

`TextStage` is BLIP-2's stage 1, `AnswerStage` its stage 2 and all instruction tuning. Both take
what they see from a `Source` of pictures and do the rest as any stage of train/loop.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from adapters.language import answer_loss
from qformer.bridge import Bridge, PassRows
from qformer.contracts import LoupeError, TextTokenizer
from qformer.momentum import Features, Momentum, MomentumConfig, momentum_itc_loss, teach
from qformer.qformer import ImageMemory
from qformer.stage1 import Stage1
from train.asks import CloseUps, Placed, Visit, Wording, collate, place_area, prompt_of, put_area
from train.data.draw import Drawn, Mixture
from train.data.sample import BadSampleError, Sample, Tally, Turn
from train.features import Seen, Sight
from train.notes import NotesConfig, notes_loss

BUCKET = 16  # sequences the language model reads at once
TRIES = 100  # pictures in place of one that cannot be used
STRIPPED = re.compile(r'[.!"()*#:;~]')  # from captions, as LAVIS does
MOST_WORDS = 50  # of a caption


def read_in_buckets(
    language: Any, prompts: Sequence[Tensor], answers: Sequence[Tensor], bucket: int = BUCKET
) -> list[Tensor]:
    """The language model's `answer_logits`, sequences of like length read together: padded to the
    longest of a batch, most of what is computed would be padding."""
    lengths = [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    logits: dict[int, Tensor] = {}
    for start in range(0, len(order), bucket):
        chosen = order[start : start + bucket]
        read = language.answer_logits([prompts[i] for i in chosen], [answers[i] for i in chosen])
        logits.update(zip(chosen, read, strict=True))
    return [logits[i] for i in range(len(order))]


def answers_loss(logits: Sequence[Tensor], answers: Sequence[Tensor]) -> Tensor:
    """Cross entropy; an answer counts as the square root of its length, so that long ones do not
    drown the short."""
    return answer_loss(logits, answers, [torch.full((len(a),), len(a) ** -0.5) for a in answers])


def rows_to(rows: PassRows, device: torch.device) -> PassRows:
    moved = {
        name: value.to(device) for name, value in vars(rows).items() if isinstance(value, Tensor)
    }
    return replace(rows, **moved)


class SampleStage:
    """What both share: pictures by their place, bad ones counted and replaced.

    count: pictures of a batch. turns: what is learned of each, at most. held_out: digests of the
    pictures that are validated on; data sets repeat pictures, and these are never learned.
    """

    held_out: Collection[str] = ()
    bridge: Bridge

    def __init__(
        self, mixture: Mixture, sight: Sight, tally: Tally, count: int, turns: int
    ) -> None:
        self.mixture, self.sight, self.tally = mixture, sight, tally
        self.count, self.turns = count, turns
        self.both: set[str] = set()  # pictures met that are held out

    def draw(self, rng: np.random.Generator, place: int) -> tuple[list[Seen], list[Any]]:
        """`count` pictures, each with what `prepared` makes of it. Raises LoupeError where too
        many are bad."""
        ready = []
        for number in range(self.count):
            found, tries = self.mixture.at(place + number), 0
            while (one := self.ready(found, rng)) is None:
                tries += 1
                if tries > TRIES:
                    why = "look at the data with `loupe data check`"
                    if len(self.both) > TRIES // 2 or not self.tally.bad:
                        why = "they are validated on too: give [[data]] others than [[validate]]"
                    raise LoupeError(
                        f"{TRIES} pictures in a row cannot be used, {found[0].key} the last: {why}"
                    )
                found = self.mixture.other(rng)
            ready.append(one)
        seen = [one for one, _ in ready]
        self.sight.encode(seen)
        return seen, [prepared for _, prepared in ready]

    def ready(self, found: Drawn, rng: np.random.Generator | None) -> tuple[Seen, Any] | None:
        """What is learned of a picture, drawn anew; all of it, and the picture as it is, without a
        generator. None where it cannot be used."""
        picture, samples = found
        with self.tally.use(picture.key):
            if rng is not None and self.held_out and picture.digest() in self.held_out:
                self.both.add(picture.key)
                return None
            seen = self.sight.look(picture, rng)
            prepared = self.prepared(samples, seen, rng)
            if prepared:
                self.tally.ok()
                return seen, prepared
        return None

    def prepared(self, samples: list[Sample], seen: Seen, rng: np.random.Generator | None) -> Any:
        """What is learned of a picture; nothing where all of it is bad."""
        raise NotImplementedError

    def chosen(
        self, samples: list[Sample], rng: np.random.Generator | None
    ) -> list[tuple[Sample, int]]:
        """What is said about a picture, (sample, turn) each, in random order."""
        every = [(sample, n) for sample in samples for n in range(len(sample.turns))]
        return every if rng is None else [every[i] for i in rng.permutation(len(every))]

    def cropped(self, close_ups: CloseUps) -> dict[str, Any]:
        """What a batch holds of its focal crops."""
        crops = self.sight.stack(close_ups.crops) if close_ups.crops else None
        return {"close_ups": close_ups, "crops": crops}

    def seen(self, batch: dict) -> tuple[Tensor, ImageMemory | None]:
        """image_embeds of a batch's pictures, and what the bridge remembers of its focal crops."""
        pictures, crops = batch["pictures"], batch["crops"]
        if crops is None:
            return self.sight.embeds(pictures), None
        both = self.sight.embeds(torch.cat([pictures, crops]))
        return both[: len(pictures)], self.bridge.remember(both[len(pictures) :])

    @property
    def patches(self) -> int:
        return self.sight.vision.grid[0] * self.sight.vision.grid[1]

    def placed(self, sample: Sample, area: int, seen: Seen) -> Placed:
        config = self.bridge.config.region
        return place_area(sample.areas[area], sample.picture, seen, self.sight, config)


def caption_of(turn: Turn, rng: np.random.Generator | None) -> str:
    """Draw one of several captions, or take a question's first answer; the first without a rng."""
    if turn.question or rng is None:
        return turn.answers[0]
    return turn.answers[int(rng.integers(len(turn.answers)))]


class AnswerStage(SampleStage):
    """The language model answers what is asked about pictures and regions, through the bridge.

    module: the bridge, the language model (of which LoRA trains, if attached) and the vision
    encoder where it trains. texts: stage 1 of the same bridge, learned beside the answers at
    `matching` times its losses, so that its heads stay true to a Q-Former that goes on learning.
    """

    def __init__(
        self, bridge: Bridge, language: Any, wording: Wording, mixture: Mixture, sight: Sight,
        tally: Tally, count: int, turns: int, notes: NotesConfig | None = None,
        texts: TextStage | None = None, matching: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(mixture, sight, tally, count, turns)
        self.bridge, self.language, self.wording, self.notes = bridge, language, wording, notes
        self.texts, self.matching = texts, matching
        self.module = nn.ModuleDict({"bridge": bridge, "language": language})
        if sight.trained:
            self.module["vision"] = sight.vision
        if texts is not None:
            self.module["stage1"] = texts.module["stage1"]

    def batch(self, rng: np.random.Generator, progress: float = 0.0, place: int = 0) -> dict:
        alone = self.notes is not None and progress < self.notes.alone
        batch = {**self.ask(*self.draw(rng, place)), "alone": alone}
        if self.texts is not None:
            self.texts.held_out = self.held_out
            batch["texts"] = self.texts.batch(rng, progress, place)
        return batch

    def ask(self, seen: Sequence[Seen], visits: Sequence[Visit]) -> dict:
        asked = collate(visits, self.patches, self.bridge.config.qformer.pad_id)
        close_ups = CloseUps(area for group in asked.groups for _, area in group.close_ups)
        return {"pictures": self.sight.stack(seen), "asked": asked} | self.cropped(close_ups)

    def prepared(
        self, samples: list[Sample], seen: Seen, rng: np.random.Generator | None
    ) -> Visit | None:
        visit = Visit([])
        for sample, number in self.chosen(samples, rng):
            if len(visit.asks) == self.turns and rng is not None:
                break
            with self.tally.use(sample.id):
                ask = self.wording.ask(sample, number, caption_of(sample.turns[number], rng))
                for key in {key for said in ask for key in said.regions}:
                    visit.areas[key] = self.placed(sample, key[1], seen)
                visit.asks.append(ask)
        return visit if visit.asks else None

    def soft_tokens(self, batch: dict) -> list[tuple[Tensor, ...]]:
        """Project the rows of each group of pictures: (queries, language width) each."""
        image_embeds, close_ups = self.seen(batch)
        soft = []
        for group in batch["asked"].groups:
            memory = self.bridge.remember(image_embeds[group.pictures])
            rows = rows_to(group.rows, image_embeds.device)
            rows.focal = batch["close_ups"].focal(group.close_ups, close_ups)
            soft.append(self.bridge.project(self.bridge.query(memory, rows)).unbind())
        return soft

    def logits(self, batch: dict, soft: list | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """What was predicted at each place of each answer, and the answers."""
        soft, asks = soft or self.soft_tokens(batch), batch["asked"].asks
        prompts = [prompt_of(self.language, ask, tokens, soft) for ask, tokens in asks]
        answers = [torch.tensor(ask[-1].answer, device=self.language.device) for ask, _ in asks]
        return read_in_buckets(self.language, prompts, answers), answers

    def losses(self, batch: dict) -> dict[str, Tensor]:
        """Sum up the loss of the answers, and of the notes where there are any."""
        soft, found = self.soft_tokens(batch), {}
        if not batch["alone"]:
            found["answer"] = answers_loss(*self.logits(batch, soft))
        if self.notes is not None:
            weight = self.notes.beside(batch["alone"])
            found["notes"] = weight * self._noted(batch["asked"].asks, soft)
        if self.texts is not None:
            losses = self.texts.losses(batch["texts"])
            found |= {name: self.matching * loss for name, loss in losses.items()}
        return found

    def _noted(self, asks: list, soft: list[tuple[Tensor, ...]]) -> Tensor:
        """The loss of what soft tokens are to be like."""
        noted = [
            (ask[-1].notes, next(iter(tokens[-1].values())))
            for ask, tokens in asks
            if ask[-1].notes
        ]
        if not noted:
            return sum(part.sum() for group in soft for part in group) * 0.0
        tokens = torch.stack([soft[g][r] for _, (g, r) in noted])
        words = self.language.model.get_input_embeddings().weight
        return notes_loss(tokens, [notes for notes, _ in noted], words)


class TextStage(SampleStage):
    """Stage 1 (ITC, ITM, ITG): captions for pictures, descriptions for their regions.

    bridge: one that does not read questions (instruct=false). turns: texts a picture, exactly; a
    picture with fewer says the same again. most: tokens of a text. momentum: see momentum.py.
    """

    def __init__(
        self, bridge: Bridge, tokenizer: TextTokenizer, mixture: Mixture, sight: Sight,
        tally: Tally, count: int, turns: int, most: int = 32,
        momentum: MomentumConfig | None = None,
    ) -> None:  # fmt: skip
        super().__init__(mixture, sight, tally, count, turns)
        self.bridge, self.tokenizer, self.most = bridge, tokenizer, most
        stage1 = Stage1(bridge.qformer)
        self.module = nn.ModuleDict({"bridge": bridge, "stage1": stage1})
        self.student = Features(bridge.qformer, stage1.vision_projection, stage1.text_projection)
        if momentum is not None:
            shape = bridge.config.qformer
            self.module["momentum"] = Momentum(
                momentum, self.student, shape.num_queries, shape.itc_size
            )
        if sight.trained:
            self.module["vision"] = sight.vision

    def prepared(
        self, samples: list[Sample], seen: Seen, rng: np.random.Generator | None
    ) -> list[tuple[str, str, Placed | None]] | None:
        """(text, what it describes, area) each."""
        told: list[tuple[str, str, Placed | None]] = []
        for sample, number in self.chosen(samples, rng):
            if len(told) == self.turns:
                break
            turn = sample.turns[number]
            with self.tally.use(sample.id):
                text = plain(caption_of(turn, rng))
                if not self.tokenizer(text):
                    raise BadSampleError("a caption has no tokens")
                area = None
                if turn.areas:
                    area = self.placed(sample, turn.areas[0], seen)
                told.append((text, text if turn.areas else sample.picture.key, area))
        return (told * self.turns)[: self.turns] if told else None

    def batch(self, rng: np.random.Generator, progress: float = 0.0, place: int = 0) -> dict:
        return self.match(*self.draw(rng, place))

    def match(self, seen: Sequence[Seen], told: Sequence[list]) -> dict:
        flat = [one for texts in told for one in texts]
        rows = PassRows.whole(len(flat), self.patches)
        regions = [(n, area) for n, (_, _, area) in enumerate(flat) if area is not None]
        for n, area in regions:
            put_area(rows, n, area)
        cropped = [(n, area) for n, area in regions if area.crop is not None]
        config = self.bridge.config
        end = [] if config.end_id is None else [config.end_id]
        room = self.most - 1 - len(end)
        ids = [
            torch.tensor([config.qformer.cls_id, *self.tokenizer(text)[:room], *end])
            for text, _, _ in flat
        ]
        return {
            "pictures": self.sight.stack(seen),
            "rows": rows,
            "input_ids": pad_sequence(ids, True, config.qformer.pad_id),
            "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
            "same": same_targets([(text, what) for text, what, _ in flat]),
            "cropped": cropped,
            **self.cropped(CloseUps(area for _, area in cropped)),
        }

    def losses(self, batch: dict) -> dict[str, Tensor]:
        image_embeds, close_ups = self.seen(batch)
        device = image_embeds.device
        memory = self.bridge.remember(image_embeds)
        rows = rows_to(batch["rows"], device)
        rows.focal = batch["close_ups"].focal(batch["cropped"], close_ups)
        inputs = self.bridge.inputs(memory, rows)
        texts = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
        contrast = None
        if "momentum" in self.module and self.module.training:
            contrast = self._contrast(inputs["memory"], inputs, texts)
        return self.module["stage1"].losses(
            inputs.pop("memory"),
            **texts,
            same=batch["same"].to(device),
            contrast=contrast,
            **inputs,
        )

    def _contrast(self, memory: ImageMemory, inputs: dict, texts: dict[str, Tensor]):
        momentum: Momentum = self.module["momentum"]
        momentum.follow(self.student)
        asked = {name: inputs.get(name) for name in ("query_embeds", "patch_bias")}
        teacher = teach(momentum, self.student, memory.image_embeds, **asked, **texts)

        def contrast(rows: Tensor, said: Tensor, same: Tensor) -> Tensor:
            temperature = self.module["stage1"].temperature
            return momentum_itc_loss(momentum, (rows, said), teacher, same, temperature)

        return contrast


def plain(caption: str) -> str:
    """Clean a caption as BLIP-2 does: lower case, no punctuation, at most 50 words."""
    return " ".join(STRIPPED.sub(" ", caption.lower()).split()[:MOST_WORDS])


def same_targets(rows: Sequence[tuple[str, str]]) -> Tensor:
    """(N,) numbers, equal where rows have the same text or describe the same thing; the same on
    every process. rows: (text, what it describes)."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for text, what in rows:
        one, other = find(f"text {text}"), find(f"of {what}")
        leader[max(one, other)] = min(one, other)
    names = [find(f"text {text}").encode() for text, _ in rows]
    numbers = [int.from_bytes(hashlib.sha256(name).digest()[:7], "big") for name in names]
    return torch.tensor(numbers)
