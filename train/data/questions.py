"""Question answering: VQAv2, OK-VQA, A-OKVQA, GQA, Visual Genome, easy-VQA, SHAPES, NLVR and
ShapeWorld in their official files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from train.data.pictures import ArrayPicture, Gallery, array_of
from train.data.sample import BadSampleError, Sample, Tally, Turn
from train.data.source import DataConfig, read_json_file, read_lines

STATEMENT = "true or false: {}"
NLVR_SPLITS = ("train", "dev", "test")


def commonest_first(answers: list[str]) -> tuple[str, ...]:
    """All ten, the one that most people gave first."""
    counts, first = Counter(answers), {answer: n for n, answer in reversed([*enumerate(answers)])}
    return tuple(sorted(answers, key=lambda answer: (-counts[answer], first[answer])))


def read_vqa(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """VQAv2 and OK-VQA: path is ..._questions.json, answers ..._annotations.json."""
    asked = read_json_file(config.file)
    answered = {a["question_id"]: a for a in read_json_file(config.second())["annotations"]}
    gallery, part = config.gallery("images"), asked.get("data_subtype", "")
    for question in asked["questions"]:
        with tally.row(f"question {question.get('question_id')}"):
            answer = answered.get(question["question_id"])
            if answer is None:
                raise BadSampleError("a question has no answer in the second file")
            said = [one["answer"] for one in answer["answers"]]
            number = question["image_id"]
            yield Sample(
                str(question["question_id"]),
                gallery.first(
                    f"COCO_{part}_{number:012d}.jpg",
                    f"{part}/COCO_{part}_{number:012d}.jpg",
                    f"{number:012d}.jpg",
                ),
                (Turn(question["question"], commonest_first(said)),),
                extra={k: answer[k] for k in ("answer_type", "question_type") if k in answer},
            )


def read_aokvqa(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    gallery = config.gallery("images")
    questions = read_json_file(config.file)
    part = config.one_split(question.get("split") for question in questions)
    for question in questions:
        with tally.row(f"question {question.get('question_id')}"):
            if part not in (None, question.get("split")):
                continue
            choices = tuple(question.get("choices", ()))
            said = commonest_first(question.get("direct_answers", []))
            extra = {"difficult": bool(question.get("difficult_direct_answer"))}
            if question.get("correct_choice_idx") is not None:
                extra["right_choice"] = choices[question["correct_choice_idx"]]
            number = f"{question['image_id']:012d}.jpg"
            yield Sample(
                question["question_id"],
                gallery.first(number, *(f"{part}2017/{number}" for part in ("train", "val"))),
                (Turn(question["question"], said, choices=choices),),
                extra=extra,
            )


def read_gqa(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """..._questions.json: question id -> question."""
    gallery = config.gallery("images")
    for number, question in read_json_file(config.file).items():
        with tally.row(f"question {number}"):
            turn = Turn(question["question"], (question["answer"],))
            extra = {"type": question.get("types", {}).get("structural")}
            yield Sample(number, gallery[f"{question['imageId']}.jpg"], (turn,), extra=extra)


def read_genome_qa(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """question_answers.json of Visual Genome; the turns of a picture stand alone."""
    gallery = config.gallery("images")
    for entry in read_json_file(config.inside("question_answers.json")):
        with tally.row(f"image {entry.get('id')}"):
            turns = tuple(Turn(qa["question"], (qa["answer"].rstrip("."),)) for qa in entry["qas"])
            if turns:
                yield Sample(str(entry["id"]), genome_picture(gallery, entry["id"]), turns)


def genome_picture(gallery: Gallery, number: int):
    """Visual Genome's pictures lie in two folders."""
    name = f"{number}.jpg"
    return gallery.first(name, f"VG_100K/{name}", f"VG_100K_2/{name}")


def read_easy_vqa(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """easy-VQA's questions.json, [question, answer, picture] each; pictures are called 0.png."""
    part = config.splits_beside("*_questions.json", "*/questions.json")
    file = config.inside(f"{part}_questions.json", f"{part}/questions.json", "questions.json")
    gallery = config.gallery(f"{part}_images.zip", f"{part}/images", "images")
    for number, row in enumerate(read_json_file(file)):
        with tally.row(f"question {number}"):
            question, answer, picture = row
            turn = Turn(question, (answer,))
            yield Sample(str(number), gallery[f"{picture}.png"], (turn,), extra={"image": picture})


def read_shapes(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """SHAPES: questions in NAME.jsonl, pictures in NAME.npz. split: the NAME, in a folder."""
    part = config.splits_beside("*.jsonl")
    file = config.inside(f"{part}.jsonl")
    pictures = file.with_suffix(".npz") if config.images is None else Path(config.images)
    count = len(array_of(pictures))
    for place, line in read_lines(file):
        with tally.row(place):
            if line is None or not 0 <= line["index"] < count:
                raise BadSampleError("a line names no picture of the array")
            label = truth(line["answer"])
            turn = Turn(line["question"], ("yes" if label else "no",), choices=("yes", "no"))
            extra = {"label": label, "layout": line.get("layout")}
            yield Sample(place, ArrayPicture(pictures, line["index"]), (turn,), extra=extra)


def truth(word: str | bool) -> bool:
    """Raises BadSampleError for what is neither true nor false."""
    known = {"true": True, "false": False, "yes": True, "no": False}
    value = known.get(str(word).lower())
    if value is None:
        raise BadSampleError("a label is neither true nor false")
    return value


def statement(text: str, label: bool) -> Turn:
    """A sentence to be called true or false."""
    answer = "true" if label else "false"
    return Turn(STATEMENT.format(text), (answer,), choices=("true", "false"))


def nlvr_files(part: str) -> tuple[str, ...]:
    return f"{part}.jsonl", f"{part}.json", f"{part}/{part}.json"


def read_nlvr(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """NLVR's dev.json, a line a sentence, which is drawn in several permutations of its boxes: a
    sample each."""
    path, part = Path(config.path), config.split or Path(config.path).stem
    if path.is_dir():
        there = {
            name for name in NLVR_SPLITS for file in nlvr_files(name) if (path / file).exists()
        }
        part = config.one_split(there) or NLVR_SPLITS[0]
    file = config.inside(*nlvr_files(part))
    gallery = config.gallery(f"{part}_images.zip", f"{part}/images", "images")
    for place, line in read_lines(file):
        with tally.row(place):
            if line is None:
                raise BadSampleError("a line is not a JSON object")
            known, name = line.get("images"), line["identifier"]
            names = known or [
                f"{line['directory']}/{part}-{name}-{permutation}.png" for permutation in range(6)
            ]
            turns = (statement(line["sentence"], truth(line["label"])),)
            # 1572-0: the first of the pictures that one sentence was written for
            extra = {"label": truth(line["label"]), "identifier": name.split("-")[0]}
            for permutation, image in enumerate(names):
                picture = gallery[image]
                yield Sample(f"{name}-{permutation}", picture, turns, extra=extra)


def read_shapeworld(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    """ShapeWorld's agreement of captions with a picture; an agreement of 1.0 is true."""
    file = config.inside("captions.jsonl")
    gallery = config.gallery("images.zip", "images")
    for place, line in read_lines(file):
        with tally.row(place):
            if line is None:
                raise BadSampleError("a line is not a JSON object")
            if config.split not in (None, line.get("config")):
                continue
            pairs = zip(line["captions"], line["agreement"], strict=True)
            turns = tuple(statement(text, value == 1.0) for text, value in pairs)
            extra = {"config": line["config"], "labels": [v == 1.0 for v in line["agreement"]]}
            yield Sample(line["image"], gallery[line["image"]], turns, extra=extra)
