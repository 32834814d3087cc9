"""Dialogues and descriptions: LLaVA, Osprey-724K and Visual Genome's regions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from train.data.coco import area_of
from train.data.questions import genome_picture
from train.data.sample import EMPTY, Area, BadSampleError, Sample, Tally, Turn, stated_size
from train.data.source import DataConfig, read_json_file, read_lines

HUMAN, MODEL = ("human", "user"), ("gpt", "assistant")
REGION = re.compile(r"<?\bregion ?(\d+)>?")


def said(conversation: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """LLaVA's conversation -> (question, answer) pairs, without its marks for the picture."""
    pairs = []
    for asks, answers in zip(conversation[::2], conversation[1::2], strict=True):
        if asks["from"] not in HUMAN or answers["from"] not in MODEL:
            raise BadSampleError("a conversation does not alternate between human and gpt")
        question = asks["value"].replace("<image>", "").strip()
        pairs.append((question, answers["value"].strip()))
    return pairs


def read_llava(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """A JSON list, or lines, of {"id", "image", "conversations": [{"from", "value"}, ...]}."""
    gallery = config.gallery("images")
    if config.file.suffix == ".jsonl":
        entries: Any = (line for _, line in read_lines(config.file))
    else:
        entries = read_json_file(config.file)
    for number, entry in enumerate(entries):
        with tally.row(f"entry {number}"):
            if "image" not in entry:
                raise BadSampleError("a conversation has no picture")
            turns = tuple(
                Turn(question, (answer,)) for question, answer in said(entry["conversations"])
            )
            name = str(entry.get("id", number))
            yield Sample(name, gallery[entry["image"]], turns, dialogue=True)


def read_osprey(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """Any file of Osprey-724K. Its marks <region1> become "region 1"; a detailed description is a
    caption of its region."""
    gallery = config.gallery("images")
    for number, entry in enumerate(read_json_file(config.file)):
        with tally.row(f"entry {number}"):
            areas = tuple(area_of(annotation, entry) for annotation in entry["annotation"])
            name = entry["file_name"]
            short = name.rsplit("_", 1)[-1]  # COCO_train2014_000000123456.jpg
            if "description" in entry:
                texts = [text.partition(">:")[2].strip() for text in entry["description"]]
                turns = tuple(Turn("", (text,), (i,)) for i, text in enumerate(texts))
            else:
                turns = osprey_turns(entry["conversations"], len(areas))
            picture = gallery.first(name, short, f"train2017/{short}", f"train2014/{name}")
            dialogue = "description" not in entry
            yield Sample(str(entry.get("id", number)), picture, turns, areas, dialogue)


def osprey_turns(conversation: list[dict[str, Any]], regions: int) -> tuple[Turn, ...]:
    """Each turn is about the regions it names, or those of the turn before; the first about all."""
    turns, about = [], tuple(range(regions))
    for question, answer in said(conversation):
        named = tuple(dict.fromkeys(int(n) - 1 for n in REGION.findall(question)))
        about = named or about
        plain, told = (REGION.sub(r"region \1", text) for text in (question, answer))
        turns.append(Turn(plain, (told,), about))
    return tuple(turns)


def read_genome_regions(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """region_descriptions.json of Visual Genome: one sample a picture, each phrase alone."""
    gallery = config.gallery("images")
    for entry in read_json_file(config.inside("region_descriptions.json")):
        areas: list[Area] = []
        turns: list[Turn] = []
        for region in entry.get("regions", ()):
            with tally.row(f"region {region.get('region_id')}"):
                x, y = float(region["x"]), float(region["y"])
                box = (x, y, x + region["width"], y + region["height"])
                area = Area(box=box, drawn_on=stated_size(entry))
                if not region["phrase"].strip():
                    raise BadSampleError(EMPTY)
                turns.append(Turn("", (region["phrase"].strip(),), (len(areas),)))
                areas.append(area)
        with tally.row(f"image {entry.get('id')}"):
            if turns:
                picture = genome_picture(gallery, entry["id"])
                yield Sample(str(entry["id"]), picture, tuple(turns), tuple(areas))
