"""Answers made elsewhere: files of results in our words, or in those of the official scorers.

What is missing is wrong; what may mean two things is refused by name, for either reading would be
a score of something else.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from qformer.contracts import LoupeError
from train.eval.case import Case
from train.eval.choices import plain
from train.eval.task import Record, Task

IDS = ("id", "question_id", "questionId", "image_id")
ANSWERS = ("answer", "caption", "prediction", "pred_ans", "response", "output", "text")
WHOLES = ("results", "predictions", "annotations", "answers")  # a file's list, by its name in it
TRUTHS = ("no", "yes"), ("false", "true")  # what 0 and 1 are called
Line = dict[str, Any]


def read_results(file: Path, task: Task, cases: Sequence[Case]) -> list[Record]:
    """A record of each case, those without an answer included.

    Takes JSON or JSON lines of {id, answer}, {id: answer} as A-OKVQA and pycocoevalcap have it, and
    rows "id,answer" (.csv) as NLVR has; lines without ids where each repeats its question (POPE).
    Raises LoupeError for a file that answers nothing of these data, or that is not clear.
    """
    lines = list(lines_of(file))
    names, unread = ids_of(file, lines, task, cases), 0
    by_id = {case.id: case for case in cases}
    answers: dict[str, str | None] = {}
    strangers: set[str] = set()
    for line, name in zip(lines, names, strict=True):
        if name is None:
            unread += 1
            continue
        if name not in by_id:
            strangers.add(name)
            continue
        found, text = answer_in(line, task, by_id[name], f"{file}, {name}")
        if not found:
            unread += 1
        elif answers.setdefault(name, text) != text:
            raise LoupeError(
                f"{file} answers {name} twice, {answers[name]!r} and {text!r}: leave one"
            )
    if not answers:
        id, answer = task.keys
        raise LoupeError(
            f"{file} answers nothing of these data (it needs {id} or id, and {answer} or answer): "
            "it is of other data, or of another model's run"
        )
    for count, what in (
        (unread, "lines hold no id with an answer and are left out"),
        (len(strangers), "ids are not of these data and are left out"),
        (
            sum(not answers.get(id) for id in by_id),
            "cases have no answer, which is scored as wrong",
        ),
    ):
        if count:
            print(f"loupe: note: {count} {what}", file=sys.stderr)
    return [record_of(case, answers.get(case.id), task, file.stem) for case in cases]


def record_of(case: Case, text: str | None, task: Task, system: str) -> Record:
    if not text:
        return {"id": case.id, "system": system, "answer": "", "error": "no answer"}
    return {"id": case.id, "system": system, "answer": task.read(text, case)}


def lines_of(file: Path) -> Iterator[Line]:
    """What a file holds, an object a line; {} for what is none."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise LoupeError(f"{file} is not text in UTF-8: give JSON, JSON lines or .csv") from None
    if file.suffix == ".csv":
        yield from ({"id": row[0], "answer": row[1]} for row in csv.reader(text.splitlines())
                    if len(row) == 2)  # fmt: skip
        return
    try:
        found = json.loads(text)
    except ValueError:  # lines of JSON, whatever the file is called
        found = [parsed(line) for line in text.splitlines() if line.strip()]
    if isinstance(found, dict):
        found = whole_of(found)
    if not isinstance(found, list):
        raise LoupeError(
            f"{file} holds one {type(found).__name__}: give a list of answers, or lines"
        )
    yield from (line if isinstance(line, dict) else {} for line in found)


def parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def whole_of(found: Line) -> list[Any]:
    """{id: answer} as lines, or the list that a file wraps."""
    for name in WHOLES:
        if isinstance(found.get(name), list) and all(isinstance(v, dict) for v in found[name]):
            return found[name]
    if any(key in found for key in IDS):
        return [found]  # a file of one line
    return [
        {**told, "id": id} if isinstance(told, dict) else {"id": id, "answer": told}
        for id, told in found.items()
    ]


def ids_of(
    file: Path, lines: Sequence[Line], task: Task, cases: Sequence[Case]
) -> list[str | None]:
    """The case that each line is about, by the one key that names cases; a name of none where it is
    of other data; None where a line names nothing."""
    known = names_of(cases)
    official, *others = dict.fromkeys((task.keys[0], *IDS))
    if official != "image_id":  # of a picture there may be many questions
        others.remove("image_id")
    if not any(line.get(key) is not None for line in lines for key in (official, *others)):
        return in_order(file, lines, cases)
    found = {key: [name_of(line.get(key)) for line in lines] for key in (official, *others)}
    fit = {key: sum(name in known for name in names) for key, names in found.items()}
    used = official if fit[official] else ""
    if not used:
        fitting = [key for key in others if fit[key]]
        if any(found[key] != found[fitting[0]] for key in fitting[1:]):
            raise LoupeError(
                f"{file} names cases by {' and by '.join(fitting)}, which differ: leave one"
            )
        used = fitting[0] if fitting else next(key for key in found if any(found[key]))
    return [None if name is None else known.get(name, name) for name in found[used]]


def names_of(cases: Sequence[Case]) -> dict[str, str]:
    """What a case may be called -> its id: that, and where no other has it the number without the
    set that stands before it (random-3), and the picture's file name for a lone question."""
    exact = {case.id: case.id for case in cases}
    loose: dict[str, set[str]] = {}
    for case in cases:
        short = case.id.removeprefix(f"{case.extra.get('set')}-")
        picture = PurePosixPath(case.picture.key).name
        for name in (short, picture):
            loose.setdefault(name, set()).add(case.id)
    return {name: next(iter(ids)) for name, ids in loose.items() if len(ids) == 1} | exact


def name_of(value: Any) -> str | None:
    """An id as text: 7, 7.0 and "7" are one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    usable = isinstance(value, int | str) and not isinstance(value, bool)
    return str(value).strip() if usable else None


def in_order(file: Path, lines: Sequence[Line], cases: Sequence[Case]) -> list[str | None]:
    """Lines without ids are the cases one after the other where each repeats its question."""
    asked = [plain(str(line.get("question", ""))) for line in lines]
    if not all(asked) or asked != [plain(case.question) for case in cases]:
        raise LoupeError(
            f"{file} has no ids, and not the {len(cases)} questions of these data in their order: "
            f"add {' or '.join(IDS[:2])} to each line"
        )
    return [case.id for case in cases]


def answer_in(line: Line, task: Task, case: Case, place: str) -> tuple[bool, str | None]:
    """Whether a line holds an answer, and its words; None for one that says nothing."""
    official = task.keys[1]
    if official in line and official != "answer":
        return True, words_in(line[official], task, case, place)
    present = [key for key in dict.fromkeys((official, *ANSWERS)) if key in line]
    # A line may repeat what was asked.
    asked = {case.question, case.extra.get("caption")} - {""}
    told = {
        key: words_in(line[key], task, case, place)
        for key in present
        if not (isinstance(line[key], str) and line[key] in asked and len(present) > 1)
    }
    if len(set(told.values())) > 1:
        pairs = " and ".join(f"{key} {text!r}" for key, text in told.items())
        raise LoupeError(f"{place} has {pairs}: keep the model's answer alone, as {official}")
    return bool(told), next(iter(told.values()), None)


def words_in(value: Any, task: Task, case: Case, place: str) -> str | None:
    """An answer's words. Raises LoupeError for what is no answer in words."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and len(value) <= 1:  # as pycocoevalcap has one caption
        return words_in(value[0], task, case, place) if value else None
    if isinstance(value, dict):
        found, text = answer_in(value, task, case, place)
        if found:
            return text
    if isinstance(value, int | float) and (text := number_in(value, task, case)) is not None:
        return text
    short = json.dumps(value, ensure_ascii=False)
    short = short if len(short) < 60 else f"{short[:57]}..."
    raise LoupeError(f"{place} has {short} for an answer, which is not clear: write it in words")


def number_in(value: float, task: Task, case: Case) -> str | None:
    """A JSON number, true or false as a word; None where that would be a guess (of choices: is the
    first 0 or 1?)."""
    for words in TRUTHS:
        if value in (0, 1) and (set(case.choices) == set(words) or task.verbatim):
            return words[int(value)]
    if isinstance(value, bool) or not float(value).is_integer():
        return None
    text = str(int(value))
    return text if not case.choices or text in case.choices else None
