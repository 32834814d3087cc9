"""Benchmarks that nothing is trained on: POPE, VSR, SugarCrepe, VALSE, NoCaps, Karpathy's splits,
GAR-Bench and PACO in their official files, and one plain form for any of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.data.coco import (
    area_of,
    by_picture,
    categories_in,
    coco_box,
    entries,
    name_in,
    names_of,
    picture_of,
    pictures_in,
)
from train.data.pictures import Gallery
from train.data.questions import commonest_first, statement, truth
from train.data.sample import Area, BadSampleError, Sample, Tally, Turn, stated_size
from train.data.source import DataConfig, read_json_file, read_lines

KINDS_OF_ATTRIBUTE = {"color": "colour", "pattern_marking": "pattern", "material": "material"}


def objects(config: DataConfig, tally: Tally) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of a JSONL file; a line that holds none is counted."""
    for place, line in read_lines(config.file):
        if line is None:
            tally.add("a line is not a JSON object", place)
        else:
            yield place, line


def near(config: DataConfig) -> Gallery:
    """The pictures: `images`, else the folder that "images/..." is below: the file's, or the one
    above."""
    if config.images is not None:
        return Gallery(Path(config.images))
    folder = config.file.parent
    return Gallery(folder if (folder / "images").is_dir() else folder.parent)


def read_asked(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """The plain form of all: a JSON line each, {"image", "dataset", and one of

        "question", "answers" or "answer_scores" [, "choices", "correct_choice_idx"]
        "caption", "negative"                                         which one is true?
        "caption", "label"                                            is it true?
        "expressions", "bbox_xywh" [, "annotation_id"]                where is it?

    split: what "dataset" begins with. answers: COCO instances, for the regions of expressions.
    """
    gallery, annotations = near(config), None
    for place, line in objects(config, tally):
        with tally.row(place):
            if not line.get("dataset", "").startswith(config.split or ""):
                continue
            areas: tuple[Area, ...] = ()
            extra: dict[str, Any] = {"set": line.get("dataset")}
            if "question" in line:
                choices = tuple(line.get("choices") or ())
                if "answers" in line:
                    answers = commonest_first(line["answers"])
                else:  # only how right each is was kept of what people said
                    extra["answer_scores"] = line["answer_scores"]
                    answers = tuple(line["answer_scores"])
                turns = [Turn(line["question"], answers, choices=choices)]
                if "correct_choice_idx" in line:
                    extra["right_choice"] = choices[line["correct_choice_idx"]]
                if "difficult_direct_answer" in line:
                    extra["difficult"] = bool(line["difficult_direct_answer"])
            elif "negative" in line:
                turns = [pair(line["caption"], line["negative"])]
            elif "label" in line:
                turns = [statement(line["caption"], bool(line["label"]))]
                extra |= {"relation": line.get("relation"), "caption": line["caption"]}
            else:
                turns = [Turn(said, (said,), (0,)) for said in line["expressions"]]
                if annotations is None:
                    annotations = _instances(config, tally)
                known, image = annotations.get(line.get("annotation_id"), (None, line))
                box = Area(box=coco_box(line["bbox_xywh"]), drawn_on=stated_size(image))
                extra["box"] = box
                areas = (area_of(known, image) if known else box,)
            name = str(line.get("question_id", place))
            yield Sample(name, gallery[line["image"]], tuple(turns), areas, extra=extra)


def _instances(config: DataConfig, tally: Tally) -> dict[Any, tuple[dict, dict]]:
    """COCO annotations by id, each with its picture's entry, where they lie beside; none is no
    mistake."""
    above = config.file.parent.parent / "instances.json"
    file = config.answers or (str(above) if above.is_file() else None)
    if file is None:
        return {}
    held = read_json_file(Path(file))
    pictures = pictures_in({"images": [], **held}, tally)
    return {
        one.get("id"): (one, pictures.get(one.get("image_id"), {}))
        for one in entries(held, "annotations", tally)
    }


def pair(caption: str, foil: str) -> Turn:
    """Two captions, of which the first is true."""
    return Turn("", (caption,), choices=(caption, foil))


def read_pope(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """POPE's coco_pope_*.json, a line a question; or a folder of the three, one after the other."""
    gallery = config.gallery("images", "val2014")
    for part in _parts(config, "coco_pope_*.json*"):
        strategy = Path(part.path).stem.removeprefix("coco_pope_")
        for place, line in objects(part, tally):
            with tally.row(place):
                answer = "yes" if truth(line["label"]) else "no"
                turn = Turn(line["text"], (answer,), choices=("yes", "no"))
                name = f"{strategy}-{line['question_id']}"
                yield Sample(name, gallery[line["image"]], (turn,), extra={"set": strategy})


def _parts(config: DataConfig, pattern: str) -> list[DataConfig]:
    """The files of a folder that are parts of one benchmark, or the one file itself."""
    path = Path(config.path)
    files = sorted(path.glob(pattern)) if path.is_dir() else [path]
    return [DataConfig(config.format, str(file)) for file in files] or [config]


def read_vsr(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """Visual Spatial Reasoning's all_vsr_validated_data.jsonl, or dev.jsonl, test.jsonl."""
    gallery = config.gallery("images")
    for place, line in objects(config, tally):
        with tally.row(place):
            extra = {"relation": line["relation"], "caption": line["caption"]}
            turns = (statement(line["caption"], bool(line["label"])),)
            yield Sample(place, gallery[line["image"]], turns, extra=extra)


def read_sugarcrepe(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """SugarCrepe's add_att.json, replace_obj.json, ..., one of them or their folder."""
    gallery = config.gallery("images", "val2017")
    for part in _parts(config, "*_*.json"):
        kind = Path(part.path).stem
        for number, entry in read_json_file(part.file).items():
            with tally.row(f"{kind} {number}"):
                turn = pair(entry["caption"], entry["negative_caption"])
                picture = gallery[entry["filename"]]
                yield Sample(f"{kind}-{number}", picture, (turn,), extra={"set": kind})


def read_valse(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """VALSE's existence.json, plurals.json, ...; pairs that two of three people found valid, which
    is the subset its authors score. Other pictures than COCO's lie in folders by their data set."""
    gallery = config.gallery("images")
    for part in _parts(config, "*.json"):
        kind = Path(part.path).stem
        for number, entry in read_json_file(part.file).items():
            with tally.row(f"{kind} {number}"):
                if entry.get("mturk", {}).get("caption", 2) < 2:
                    continue
                name, source = entry["image_file"], str(entry.get("dataset", ""))
                picture = gallery.first(name, f"{source}/{name}", f"{entry.get('split')}/{name}")
                turn = pair(entry["caption"], entry["foil"])
                yield Sample(f"{kind}-{number}", picture, (turn,), extra={"set": kind})


def read_nocaps(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """nocaps_val_4500_captions.json; every picture is in-domain, near-domain or out-domain."""
    annotations, gallery = read_json_file(config.file), config.gallery("images")
    pictures = pictures_in(annotations, tally)
    captions = by_picture(annotations, pictures, tally, lambda one, _: one["caption"])
    for id, image in pictures.items():
        with tally.row(f"image {id}"):
            turns = (Turn("", tuple(captions.get(id, ()))),)
            extra = {"set": image.get("domain")}
            yield Sample(str(id), picture_of(image, gallery), turns, extra=extra)


def read_karpathy(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """Karpathy's dataset_coco.json or dataset_flickr30k.json, or LAVIS' lists made of them, each of
    which is of one split."""
    annotations, gallery = read_json_file(config.file), config.gallery("images")
    entries = annotations["images"] if isinstance(annotations, dict) else annotations
    told = [entry.get("split") for entry in entries if "sentences" in entry]
    part = config.one_split(told) if told else None
    for number, entry in enumerate(entries):
        with tally.row(f"entry {number}"):
            if "sentences" in entry:
                if entry["split"] != part:
                    continue
                said = [sentence["raw"] for sentence in entry["sentences"]]
                names = (f"{entry.get('filepath', '')}/{entry['filename']}", entry["filename"])
                name = str(entry.get("cocoid", entry.get("imgid", number)))
            else:
                said = [entry["caption"]] if isinstance(entry["caption"], str) else entry["caption"]
                names = (entry["image"], Path(entry["image"]).name)
                name = str(entry.get("image_id", names[1].split(".")[0]))
            yield Sample(name, gallery.first(*names), (Turn("", tuple(said)),))


def read_gar_bench(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """GAR-Bench-VQA.json: a multiple-choice question about several regions; its marks <Prompt0>
    become "region 1". Choices lose their letters."""
    gallery = config.gallery("images")
    for number, entry in enumerate(read_json_file(config.file)):
        with tally.row(f"entry {number}"):
            question = entry["question"]
            areas = tuple(Area(rle=rle) for rle in entry["mask_rles"])
            for index in range(len(areas)):
                question = question.replace(f"<Prompt{index}>", f"region {index + 1}")
            letters = [choice.split(".")[0].strip().upper() for choice in entry["choices"]]
            choices = tuple(choice.split(".", 1)[-1].strip() for choice in entry["choices"])
            right = choices[letters.index(entry["answer"].strip().upper())]
            turn = Turn(question, (right,), tuple(range(len(areas))), choices)
            picture = gallery.first(entry["image"], Path(entry["image"]).name)
            extra = {"set": entry.get("type"), "right_choice": right}
            yield Sample(str(entry.get("id", number)), picture, (turn,), areas, extra=extra)


def read_paco(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """paco_lvis_v1_*.json: objects and parts with their attributes. Each thing is called by its
    category ("mug:handle" is a handle), and asked for its colours, pattern and material."""
    annotations, gallery = read_json_file(config.file), config.gallery("images")
    names = categories_in(annotations, tally, _part_names)
    attributes = {one["id"]: one["name"] for one in annotations["attributes"]}
    kinds = {
        number: KINDS_OF_ATTRIBUTE[kind]
        for kind, numbers in annotations["attr_type_to_attr_idxs"].items()
        if kind in KINDS_OF_ATTRIBUTE
        for number in numbers
    }
    pictures = pictures_in(annotations, tally)
    things = by_picture(
        annotations,
        pictures,
        tally,
        lambda one, image: (area_of(one, image), name_in(names, one["category_id"]), one),
    )
    for id, image in pictures.items():
        with tally.row(f"image {id}"):
            here = things.get(id, [])
            turns = []
            for index, (_, name, annotation) in enumerate(here):
                turns.append(Turn("", name, (index,)))
                said: dict[str, list[str]] = defaultdict(list)
                for number in annotation.get("attribute_ids") or ():
                    if number in kinds:
                        said[kinds[number]].append(attributes[number].replace("_", " "))
                for kind, values in said.items():
                    turns.append(Turn(f"what {kind} is it?", tuple(values), (index,)))
            if turns:
                areas = tuple(area for area, _, _ in here)
                yield Sample(str(id), picture_of(image, gallery), tuple(turns), areas)


def _part_names(category: dict[str, Any]) -> tuple[str, ...]:
    whole = category["name"].rsplit(":", 1)[-1]
    if not whole:
        raise BadSampleError("a category has no name")
    return names_of({**category, "name": whole, "synonyms": None})
