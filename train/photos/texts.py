"""Sets of sentences: captions, questions that people asked and answered, statements."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.data.questions import commonest_first
from train.photos.facts import Captioned
from train.photos.lines import Lines, read_jsonl
from train.photos.mentions import Captions
from train.photos.wordings import as_typed, ask

SPLIT = "train"  # of Flickr8k; dev is judged on


def flickr(source: Path, split: str = SPLIT) -> Captioned:
    lines = read_jsonl(source / "photos/flickr8k/captions.jsonl")
    return {
        f"photos/flickr8k/images/{line['image']}": Captions(tidy_all(line["captions"]))
        for line in lines
        if line["split"] == split
    }


def coco_captions(source: Path, folder: str) -> Captioned:
    file = json.loads((source / folder / "captions.json").read_text())
    names = {image["id"]: image["file_name"] for image in file["images"]}
    found: dict[str, list[str]] = {}
    for one in file["annotations"]:
        found.setdefault(names[one["image_id"]], []).append(one["caption"])
    return {f"{folder}/images/{name}": Captions(tidy_all(texts)) for name, texts in found.items()}


def small_captions(source: Path) -> Captioned:
    found: dict[str, list[str]] = {}
    for line in small_lines(source, "caption_val"):
        found.setdefault(line["image"], []).append(line["caption"])
    return {f"photos/coco_small/images/{n}": Captions(tidy_all(t)) for n, t in found.items()}


def scene_captions(source: Path) -> Captioned:
    found = {}
    for line in read_jsonl(source / "photos/ade_text/index.jsonl"):
        texts = tidy_all(line["captions"])
        if texts:
            found[f"photos/ade_text/images/{line['image']}"] = Captions(texts)
    return found


def small_lines(source: Path, kind: str) -> Iterator[dict[str, Any]]:
    for line in read_jsonl(source / "photos/coco_small/annotations.jsonl"):
        if line["kind"].startswith(kind):
            yield line


def tidy_all(texts: list[str]) -> tuple[str, ...]:
    tidied = (tidy(text) for text in texts)
    return tuple(dict.fromkeys(text for text in tidied if len(text.split()) > 2))


def tidy(text: str) -> str:
    """ "A dog runs ." -> "a dog runs": as the model is to write."""
    text = " ".join(text.replace('"', " ").split())
    text = re.sub(r" ([,;:.!?]|'s\b|n't\b)", r"\1", text).strip(" .")
    first = text.split(" ", 1)[0]
    plain = first in ("A", "An", "The", "I") or (first[1:] == first[1:].lower() and first != "I")
    return text[:1].lower() + text[1:] if plain and len(first) < 12 else text


def captions(captioned: Captioned) -> Iterator[Lines]:
    """As captions, of which any is learned, and as answers to whoever asks for one."""
    for image, said in captioned.items():
        lines = Lines("captions", image)
        notes = said.content()
        lines.say(said.texts, notes)
        wordings = ask(lines.rng, "describe", 3)
        for question, text in zip(wordings, lines.rng.permutation(said.texts), strict=False):
            lines.question(question, str(text), notes)
        yield lines


# ---- questions that people asked


def questions(source: Path) -> Iterator[Lines]:
    """OK-VQA and A-OKVQA as they were asked; VSR's statements as questions of yes and no."""
    for kind in ("okvqa_train", "okvqa_testdev"):
        for line in small_lines(source, kind):
            said = [answer for answer in line["answers"] if answer.strip()]
            answers = sorted(said, key=lambda answer: -line["answers"][answer])
            if answers and line["answers"][answers[0]] >= 0.6:
                yield asked(f"photos/coco_small/images/{line['image']}", line["question"], answers)
    for line in read_jsonl(source / "coco_nc/tasks/vqa.jsonl"):
        answers = dict.fromkeys(commonest_first(line.get("answers", [])))
        if answers:
            yield asked(f"coco_nc/{line['image']}", line["question"], list(answers))
    for line in small_lines(source, "vsr"):
        image = f"photos/coco_small/images/{line['image']}"
        yield stated(image, line["statement"], line["relation"], line["label"])
    for line in read_jsonl(source / "coco_nc/tasks/vsr.jsonl"):
        yield stated(f"coco_nc/{line['image']}", line["caption"], line["relation"], line["label"])


def asked(image: str, question: str, answers: list[str]) -> Lines:
    lines = Lines("vqa", image)
    answers = [answer.lower() for answer in answers]
    lines.question(question, answers, answers[0])
    lines.question(as_typed(question.lower(), lines.rng), answers, answers[0])
    return lines


def stated(image: str, statement: str, relation: str, label: int) -> Lines:
    """ "The bed is above the laptop." -> "is the bed above the laptop?" and the like."""
    lines = Lines("vqa", image)
    text, answer = tidy(statement), "yes" if label else "no"
    lines.fact("statement", answer, f"{answer} {relation}", about=text, times=2)
    parts = re.fullmatch(r"(the .+?) (is|are) (.+)", text)
    if parts:
        question = f"{parts[2]} {parts[1]} {parts[3]}?"
        lines.question(as_typed(question, lines.rng), answer, f"{answer} {relation}")
    return lines
