"""A recipe made into a run: its stage, how that is evaluated, and what is left at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from adapters import lora
from qformer.assistant import Assistant, AssistantConfig
from qformer.contracts import LoupeError
from train.asks import Wording
from train.data.draw import Drawn, Listed, Mixture, open_mixture
from train.data.readers import read
from train.data.sample import Picture, Sample, Tally, Turn
from train.engine import Share
from train.features import Sight
from train.overrides import decoding_of, prompt_of
from train.page import Shown, mark, write_page
from train.parts import open_parts, save_parts
from train.recipe import Recipe
from train.stages import AnswerStage, SampleStage, TextStage, caption_of

SHORT = 3  # words of an answer that is hit exactly or not at all
TEXTS_BESIDE = 1  # of a picture, that stage 1 learns beside answers
WHOLE = Share()  # of one process alone


def free_text(drawn: Sequence[Drawn]) -> bool:
    """Whether most of what is said about these pictures has more words than are hit exactly."""
    turns = [turn for _, samples in drawn for sample in samples for turn in sample.turns]
    longer = sum(len(turn.answers[0].split()) > SHORT for turn in turns)
    return longer > len(turns) / 2


def captions_only(sample: Sample) -> Sample | None:
    turns = tuple(turn for turn in sample.turns if not turn.question)
    return dataclasses.replace(sample, turns=turns, dialogue=False) if turns else None


def everything(sample: Sample) -> Sample | None:
    return sample


class Training:
    """What `fit` trains by a recipe. say: where progress goes."""

    def __init__(self, recipe: Recipe, say: Callable[[str], None] = print) -> None:
        self.recipe, self.say = recipe, say
        self.parts = open_parts(recipe)
        self.tally = Tally(recipe.bad_share)
        wanted = everything if recipe.stage == "instruct" else captions_only
        seed = recipe.loop.seed
        mixture = open_mixture(recipe.data, wanted, self.tally, seed)
        if recipe.notes and not mixture.holds(lambda turn: bool(turn.notes)):
            raise LoupeError(
                "[notes] are to be learned, and no question of [[data]] has any: give the lines "
                '"notes", or leave out [notes]'
            )
        self.valid: list[Drawn] = []
        held_out: set[str] = set()
        for config in recipe.validate:
            kept = (wanted(sample) for sample in read(config, self.tally))
            drawn = Listed((sample for sample in kept if sample is not None), seed)
            most = min(recipe.evaluated, len(drawn))
            self.valid += [drawn.at(place) for place in range(most)]
            for picture, _ in () if recipe.learn_validated else drawn.drawn:
                with self.tally.use(picture.key):
                    held_out.add(picture.digest())
        if recipe.validate and not self.valid:
            raise LoupeError("[[validate]] holds nothing this stage can be evaluated on")
        sight = Sight(self.parts.vision, recipe.cache, recipe.augment, recipe.vision_trains)
        if sight.cache is None and recipe.cache.folder:
            why = "augmentation changes them" if recipe.augment.any else "the encoder trains"
            say(f"features are not cached: {why}")
        self.stage = self._stage(mixture, sight)
        self.stage.held_out = held_out
        self._choose_what_trains()
        self.module = self.stage.module
        self.batch, self.losses = self.stage.batch, self.stage.losses

    def _stage(self, mixture, sight: Sight) -> SampleStage:
        recipe, parts = self.recipe, self.parts
        count, turns = recipe.loop.batch, recipe.turns
        if recipe.stage == "stage1":
            return self._texts(mixture, sight, recipe.turns)
        prompt = prompt_of(recipe, parts.kept, parts.language)
        noted, texts = recipe.notes is not None, None
        if recipe.matching:
            seed = recipe.loop.seed
            captions = open_mixture(recipe.data, captions_only, self.tally, seed, some=True)
            texts = self._texts(captions, sight, min(recipe.turns, TEXTS_BESIDE))
        wording = Wording(prompt, parts.bridge.config, parts.language, parts.tokenizer, noted)
        return AnswerStage(
            parts.bridge, parts.language, wording, mixture, sight, self.tally, count, turns,
            recipe.notes, texts, recipe.matching,
        )  # fmt: skip

    def _texts(self, mixture: Mixture, sight: Sight, turns: int) -> TextStage:
        recipe, parts = self.recipe, self.parts
        stage = TextStage(
            parts.bridge, parts.tokenizer, mixture, sight, self.tally, recipe.loop.batch,
            turns, recipe.text_tokens, recipe.momentum,
        )  # fmt: skip
        if parts.heads is not None:  # the Q-Former's weights are the bridge's already
            stage.module["stage1"].load_state_dict(parts.heads.state_dict(), strict=False)
        if "momentum" in stage.module:  # the teacher starts as the student does
            stage.module["momentum"].follow(stage.student, at_once=True)
        return stage

    def _choose_what_trains(self) -> None:
        parts, recipe = self.parts, self.recipe
        parts.bridge.requires_grad_(recipe.trains.bridge)
        if recipe.lora_on("qformer"):
            lora.train_alone(parts.bridge.qformer)
        if recipe.trains.vision:
            parts.vision.requires_grad_(True)
            if trunk := getattr(parts.vision, "trunk", None):
                trunk.requires_grad_(False)  # it never trains

    # ---- evaluation ----------------------------------------------------------------------------

    def _batches(self, share: Share) -> Iterator[tuple[list, list]]:
        """(seen, prepared) of the validation pictures, some at a time."""
        stage = self.stage
        for start in range(share.rank * stage.count, len(self.valid), share.world * stage.count):
            ready = [stage.ready(one, None) for one in self.valid[start : start + stage.count]]
            good = [one for one in ready if one is not None]
            if good:
                seen = [one for one, _ in good]
                stage.sight.encode(seen)
                yield seen, [prepared for _, prepared in good]

    def evaluate(self, share: Share = WHOLE) -> dict[str, float]:
        """Score the validation data. Answers: the share whose every token is the likeliest after
        the right ones before it, so that greedy decoding writes exactly them, and the loss. Texts:
        the losses."""
        answers = isinstance(self.stage, AnswerStage)
        names = ("right", "loss") if answers else ("itc", "itm", "itg")
        score = self._score_answers if answers else self._score_texts
        weight, totals = 0.0, dict.fromkeys(names, 0.0)
        for seen, prepared in self._batches(share):
            count, sums = score(seen, prepared)
            weight += count
            for name in names if count else ():
                totals[name] += sums[name]
        weight, *sums_of_all = share.total([weight, *totals.values()])
        if not weight:
            raise LoupeError("no validation picture can be used: `loupe data check` says why")
        means = {n: total / weight for n, total in zip(names, sums_of_all, strict=True)}
        return means if answers else {"score": -sum(means.values())} | means

    def judge(self, scores: dict[str, float]) -> float:
        """How good an evaluation is, more is better: by loop.best."""
        name = self.recipe.loop.best
        if not name:
            free = isinstance(self.stage, AnswerStage) and free_text(self.valid)
            name = "loss" if free else next(iter(scores))
        return scores[name] if name in ("right", "score") else -scores[name]

    def _score_answers(self, seen: list, prepared: list) -> tuple[int, dict[str, float]]:
        """Count the answers, and sum their scores."""
        logits, answers = self.stage.logits(self.stage.ask(seen, prepared))
        right = [
            bool((row.argmax(-1) == answer).all())
            for row, answer in zip(logits, answers, strict=True)
        ]
        return len(right), {"right": sum(right), "loss": cross_entropy(logits, answers)}

    def _score_texts(self, seen: list, prepared: list) -> tuple[int, dict[str, float]]:
        """Count the pictures, and sum their losses."""
        batch = self.stage.match(seen, prepared)
        if len(set(batch["same"].tolist())) < 2:
            return 0, {}  # nothing to contrast
        losses = self.stage.losses(batch)
        return len(seen), {n: float(v.detach()) * len(seen) for n, v in losses.items()}

    def show(self, folder: Path, step: int) -> None:
        """A page of answers to validation questions, as the chat would give them."""
        if not isinstance(self.stage, AnswerStage):
            return
        picked = (
            (picture, samples[number % len(samples)])
            for number, (picture, samples) in enumerate(self.valid)
        )
        shown = islice((self._shown(*one) for one in picked), self.recipe.shown)
        head = f"<p>Step {step}. Green: as expected; red: not.</p>"
        write_page(folder / f"step-{step:08d}.html", f"Answers at step {step}", head, shown)

    def assistant(self) -> Assistant:
        """The parts as they are now, to ask."""
        parts, kept = self.parts, self.parts.kept
        prompt = prompt_of(self.recipe, kept, parts.language)
        config = AssistantConfig(prompt, decoding_of(self.recipe, kept))
        return Assistant(parts.vision, parts.bridge, parts.language, None, config, parts.tokenizer)

    @torch.no_grad()
    def _shown(self, picture: Picture, sample: Sample) -> Shown:
        view = self.assistant().encode(picture.load())
        region_masks: list[Tensor] = []
        lines = []
        conversation = view.converse()
        for turn in sample.turns[:4]:
            if not sample.dialogue:
                conversation = view.converse()
            try:
                masks = [sample.areas[area].region_mask(view.size) for area in turn.areas]
                regions = [
                    view.region(m, f"region {a + 1}")
                    for m, a in zip(masks, turn.areas, strict=True)
                ]
                if turn.question:
                    answer = "".join(conversation.ask(turn.question, regions))
                else:
                    answer = view.caption(regions[0] if regions else None)
            except LoupeError as error:
                answer, masks = str(error), []
            region_masks = masks or region_masks
            lines.append(answer_line(turn, answer))
        return Shown(sample.id, view.image, region_masks, lines)

    # ---- what is left --------------------------------------------------------------------------

    def describe(self) -> list[str]:
        """What is about to happen, before it does."""
        recipe = self.recipe
        trained = [p for p in self.module.parameters() if p.requires_grad]
        frozen = [p for p in self.module.parameters() if not p.requires_grad]
        pictures = sum(len(one) for one in self.stage.mixture.sets if isinstance(one, Listed))
        bad = f", {self.tally.bad} bad samples left out" if self.tally.bad else ""
        return [
            f"{recipe.stage}: {count(trained)} parameters train, {count(frozen)} are frozen; "
            f"{pictures} pictures{bad}"
        ]

    def report(self) -> list[str]:
        """Say how the data were, at the end."""
        both = len(self.stage.both)
        return [f"{both} pictures are validated on too: not learned"] * bool(both) + [
            f"{times} samples left out: {reason} ({', '.join(self.tally.examples[reason])})"
            for reason, times in self.tally.reasons.most_common(5)
        ]

    def keep(self, folder: Path) -> None:
        save_parts(self.parts, self.recipe, folder, self.stage)


def count(parameters: list[torch.nn.Parameter]) -> str:
    """ "1.2M" """
    total = sum(p.numel() for p in parameters)
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if total >= size:
            return f"{total / size:.1f}{letter}"
    return str(total)


def cross_entropy(logits: list[Tensor], answers: list[Tensor]) -> float:
    """Sum over answers the mean over each one's tokens."""
    return sum(
        float(torch.nn.functional.cross_entropy(row.float(), answer))
        for row, answer in zip(logits, answers, strict=True)
    )


def answer_line(turn: Turn, answer: str) -> str:
    expected = caption_of(turn, None)
    right = answer.strip().lower() in {a.strip().lower() for a in turn.answers}
    line = f"{mark(turn.question or 'caption:')} {mark(answer, 'learned' if right else 'wrong')}"
    return line if right else f"{line} (expected: {mark(expected)})"
