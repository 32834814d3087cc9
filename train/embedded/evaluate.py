"""How often the embedded default is right, type by type, on pictures it has never seen.

`ask_all` scores a stage 2 in training over cached features and given regions. `evaluate` scores the
finished assistant as a user meets it: a picture, a click, the words as typed, the streamed answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from adapters.build import build
from qformer.contracts import RegionError
from train.embedded.stages import Stage2Stage
from train.scenes.dialogue import Turn, follow_up, painted_scene
from train.scenes.questions import REGION_TYPES, TYPES, Question, ask_count
from train.scenes.scene import HELD_OUT, Scene
from train.scenes.wordings import roughen

TARGETS = {
    "what": 0.97, "colour": 0.97, "kind": 0.97, "size": 0.97, "texture": 0.93, "describe": 0.85,
    "exist": 0.92, "count": 0.92, "others": 0.92, "relation": 0.90, "bigger": 0.90,
    "same_colour": 0.90, "same_kind": 0.90, "biggest": 0.90, "where": 0.90, "region_where": 0.90,
    "beside": 0.90, "verify": 0.92, "follow_up": 0.90,
}  # fmt: skip
CAPTION_F1 = 0.90
BATCH = 32
OPENINGS = ("what", "colour", "kind", "texture", "size")  # what follow-ups refer back to


def reached(evaluation: dict) -> set[str]:
    """The types of an `evaluate` result that meet their targets."""
    types = {t for t, row in evaluation["types"].items() if row["right"] >= TARGETS.get(t, 2.0)}
    return types | ({"caption"} if evaluation["caption_f1"] >= CAPTION_F1 else set())


def draw_turn(type: str, scene: Scene, rng: np.random.Generator) -> Turn | None:
    """A question of one type about a scene; a "follow_up" comes with the turn before it."""
    if type != "follow_up":
        question = TYPES[type](scene, rng)
        return question and Turn(question, roughen(question.text, rng))
    make = ask_count if rng.random() < 0.25 else REGION_TYPES[OPENINGS[int(rng.integers(5))]]
    before = make(scene, rng)
    question = before and follow_up(scene, before, rng)
    return question and Turn(question, roughen(question.text, rng), Turn(before, before.text))


def ask_all(stage: Stage2Stage, count: int, seed: int = 0) -> dict[str, float]:
    """Share of exactly right answers, each type, from given regions: `count` questions a type."""
    stage.module.eval()
    result = {}
    for type in (*TYPES, "follow_up"):
        rng = np.random.default_rng((seed, len(result)))
        by_rows: dict[int, list[tuple[int, list[Turn]]]] = defaultdict(list)
        asked, picture = 0, 0
        while asked < count and picture < 20 * count:
            index = picture % len(stage.pool)
            picture += 1
            turn = draw_turn(type, stage.pool.scene(index), rng)
            if turn is not None:
                turns = [turn] if turn.before is None else [turn.before, turn]
                rows = sum(1 + len(one.question.regions) for one in turns)
                by_rows[rows].append((index, turns))
                asked += 1
        right = 0
        for same_rows in by_rows.values():
            for start in range(0, len(same_rows), BATCH):
                pictures, turns_of_each = map(
                    list, zip(*same_rows[start : start + BATCH], strict=True)
                )
                marks = stage.right(stage.ask(pictures, turns_of_each))
                each = len(turns_of_each[0])
                right += sum(marks[each - 1 :: each])
        result[type] = right / max(1, asked)
    return result


def evaluate(
    checkpoint: Path,
    count: int,
    say: Callable[[str], None] = print,
    seed: int = 7,
    processes: int = 1,
) -> dict:
    """The assistant on fresh pictures, `count` questions a type, regions by one click each.

    processes: shares of the questions, each on pictures of its own. Returns {"types": {type:
    {"right", "without_regions", "majority", "asked"}}, "held_out": share of right "what", "colour",
    "kind" on held-out pairs, "caption_f1", "segmenter": mean IoU of a click and of a box, on seen
    and on held-out pairs, "pictures": how many}.
    """
    share = -(-count // processes)
    seeds = [seed + 1000 * process for process in range(processes)]
    if processes == 1:
        scores = [score(checkpoint, share, seed, say)]
    else:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            scores = list(pool.map(score, [checkpoint] * processes, [share] * processes, seeds))
    total = scores[0]
    for other in scores[1:]:
        total.add(other)
    return {
        "types": {type: tally.summary() for type, tally in total.types.items()},
        "held_out": {type: t.right / max(1, t.asked) for type, t in total.held_out.items()},
        "caption_f1": float(np.mean(total.captions)) if total.captions else 0.0,
        "segmenter": {name: float(np.mean(values)) for name, values in total.overlaps.items()},
        "pictures": total.pictures,
    }


@torch.no_grad()
def score(
    checkpoint: Path, count: int, seed: int, say: Callable[[str], None] | None = None
) -> Score:
    """One process's share of `evaluate`."""
    torch.set_num_threads(1)
    assistant, result = build(checkpoint), Score()
    while result.pictures < 12 * count and any(t.asked < count for t in result.types.values()):
        rng = np.random.default_rng((seed, result.pictures))
        scene, image, masks = painted_scene(rng)
        view = assistant.encode(torch.from_numpy(image))
        regions = Clicks(view, masks, result.overlaps)
        for type, tally in result.types.items():
            turn = draw_turn(type, scene, rng) if tally.asked < count else None
            if turn is None:
                continue
            question = turn.question
            answer = say_turn(view, turn, regions)
            bare = view.ask(turn.text) if question.regions and turn.before is None else None
            tally.add(question, answer, bare)
            if type == "caption":
                result.captions.append(f1(answer, question.answer))
        result.pictures += 1
        if say and result.pictures % 100 == 0:
            asked = sum(t.asked for t in result.types.values())
            say(f"evaluate: {result.pictures} pictures, {asked} questions")
    score_held_out(assistant, count, seed + 1, result)
    return result


class Score:
    """What one process counted."""

    def __init__(self) -> None:
        self.types = {type: Tally() for type in (*TYPES, "follow_up")}
        self.held_out = {type: Tally() for type in ("what", "colour", "kind")}
        self.overlaps: dict[str, list[float]] = {}
        self.captions: list[float] = []
        self.pictures = 0

    def add(self, other: Score) -> None:
        for ours, theirs in ((self.types, other.types), (self.held_out, other.held_out)):
            for type, tally in theirs.items():
                ours[type].join(tally)
        for name, values in other.overlaps.items():
            self.overlaps.setdefault(name, []).extend(values)
        self.captions += other.captions
        self.pictures += other.pictures


class Tally:
    """Counts for one type."""

    def __init__(self) -> None:
        self.asked = self.right = self.bare_right = self.bare_asked = 0
        self.answers: Counter[str] = Counter()

    def add(self, question: Question, answer: str, bare: str | None) -> None:
        self.asked += 1
        self.right += answer == question.answer
        self.answers[question.answer] += 1
        if bare is not None:
            self.bare_asked += 1
            self.bare_right += bare == question.answer

    def join(self, other: Tally) -> None:
        self.asked += other.asked
        self.right += other.right
        self.bare_asked += other.bare_asked
        self.bare_right += other.bare_right
        self.answers += other.answers

    def summary(self) -> dict:
        asked = max(1, self.asked)
        return {
            "right": self.right / asked,
            "without_regions": self.bare_right / self.bare_asked if self.bare_asked else None,
            "majority": self.answers.most_common(1)[0][1] / asked if self.answers else 0.0,
            "asked": self.asked,
        }


class Clicks:
    """The regions of a picture as one click each gives them, made when asked for."""

    def __init__(
        self, view, masks: np.ndarray, overlaps: dict[str, list[float]], kind: str = "seen"
    ):
        self.view, self.masks, self.overlaps, self.kind = view, masks, overlaps, kind
        self.made: dict[int, torch.Tensor] = {}

    def region(self, item: int, name: str):
        if item not in self.made:
            mask = self.masks[item]
            ys, xs = np.nonzero(mask)
            nearest = int(((xs - xs.mean()) ** 2 + (ys - ys.mean()) ** 2).argmin())
            x, y = float(xs[nearest]), float(ys[nearest])
            box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
            try:
                clicked = self.view.segment(points=[(x, y, 1)]).region_masks[0]
            except RegionError:  # nothing was found
                self.overlaps.setdefault(f"click, {self.kind}", []).append(0.0)
                raise
            boxed = self.view.segment(box=box).region_masks[0]
            self.overlaps.setdefault(f"click, {self.kind}", []).append(iou(clicked.numpy(), mask))
            self.overlaps.setdefault(f"box, {self.kind}", []).append(iou(boxed.numpy(), mask))
            self.made[item] = clicked
        return self.view.region(self.made[item], name)


def say_turn(view, turn: Turn, clicks: Clicks) -> str:
    """Put a turn, and the one before it, to a fresh conversation; the last answer, or "" where a
    click finds nothing."""
    conversation = view.converse()
    known: dict[tuple[int, str], object] = {}
    answer = ""
    for one in ([turn.before] if turn.before else []) + [turn]:
        keys = list(zip(one.question.regions, one.question.names, strict=True))
        if keys and all(key in known for key in keys):
            regions = None  # those of the last turn stay in force
        else:
            try:
                known |= {key: clicks.region(*key) for key in keys}
            except RegionError:
                return ""
            regions = [known[key] for key in keys]
        answer = "".join(conversation.ask(one.text, regions))
    return answer


def score_held_out(assistant, count: int, seed: int, result: Score) -> None:
    """Pairs of kind and colour that no phase of training has seen."""
    picture = 0
    while any(tally.asked < count for tally in result.held_out.values()):
        rng = np.random.default_rng((seed, picture))
        picture += 1
        scene, image, masks = painted_scene(rng, "held_out")
        view = assistant.encode(torch.from_numpy(image))
        clicks = Clicks(view, masks, result.overlaps, "held out")
        for i, item in enumerate(scene.items):
            if item.pair not in HELD_OUT or masks[i].sum() < 30:
                continue
            alone = replace(scene, items=(item,), areas=())
            for type, tally in result.held_out.items():
                question = replace(TYPES[type](alone, rng), regions=(i,))
                tally.add(question, say_turn(view, Turn(question, question.text), clicks), None)


def iou(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float((ours & theirs).sum() / max(1, (ours | theirs).sum()))


def f1(answer: str, truth: str) -> float:
    """Of the objects named in a caption: "a red star and a blue car" holds two."""

    def objects(text: str) -> Counter[str]:
        parts = text.replace(" and ", ", ").split(", ")
        return Counter(p.removeprefix("an ").removeprefix("a ").strip() for p in parts if p)

    ours, theirs = objects(answer), objects(truth)
    shared = (ours & theirs).total()
    return 2 * shared / max(1, ours.total() + theirs.total())
