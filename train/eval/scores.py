"""scores.json: every system's measures with intervals, by stratum, and what they were made of."""

from __future__ import annotations

import json
import math
import platform
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qformer.contracts import LoupeError
from train.eval import arms
from train.eval.case import Case
from train.eval.scoring import text_of
from train.eval.stats import Measure, compare
from train.eval.task import Record, Task

SMALL, LARGE = 32**2, 96**2  # pixels of a region: COCO's bounds for small, medium and large
CHANCE = "chance"
# of each text, how near it comes to the nearest of its answers
Similarity = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]


@dataclass(frozen=True)
class System:
    """One model in one arm, over the cases that could be shown. measures: the first is the one
    that best and worst are told by."""

    name: str
    cases: list[Case]
    records: list[Record]
    measures: dict[str, Measure]

    @property
    def groups(self) -> list[str]:
        return [case.picture.key for case in self.cases]

    @property
    def headline(self) -> tuple[str, Measure]:
        return next(iter(self.measures.items()))

    @property
    def marks(self) -> np.ndarray:
        """The headline score of each case alone, (cases,)."""
        _, measure = self.headline
        return measure.combine(measure.parts)


def systems_of(
    task: Task, cases: Sequence[Case], records: Sequence[Record], similar: Similarity | None = None
) -> list[System]:
    """Every system of a run, majority first. Cases left out for one are left out for all."""
    out = {record["id"] for record in records if "left_out" in record}
    by_system: dict[str, dict[str, Record]] = {}
    for record in records:
        by_system.setdefault(record["system"], {})[record["id"]] = record
    answered = set.union(*({*one} for one in by_system.values())) if by_system else set()
    shown = [case for case in cases if case.id in answered - out]
    if not shown:
        raise LoupeError("no case could be asked: check that the pictures are where the data say")
    any_of = {id: record for one in by_system.values() for id, record in one.items()}
    name, guesses = blind(task, shown, any_of)
    made = [
        {"id": case.id, **guess, "area": any_of[case.id].get("area")}
        for case, guess in zip(shown, guesses, strict=True)
    ]
    systems = [System(name, shown, made, measures_of(task, shown, made, similar))]
    for name, told in by_system.items():
        mine = [case for case in shown if case.id in told]
        records_of = [told[case.id] for case in mine]
        if mine:
            measures = measures_of(task, mine, records_of, similar)
            systems.append(System(name, mine, records_of, measures))
    return systems


def blind(
    task: Task, cases: list[Case], records: dict[str, Record]
) -> tuple[str, list[dict[str, Any]]]:
    """What is said without a look: the majority's answer; of regions the whole picture."""
    if "find" not in task.ways:
        return arms.MAJORITY, [{"answer": answer} for answer in arms.majority(cases)]
    found = (records[case.id] for case in cases)
    ious = ((record.get("whole", (0.0, 0.0)), record.get("chance")) for record in found)
    return arms.WHOLE, [
        {"answer": arms.WHOLE, "box_iou": box, "mask_iou": region_mask, "reach": box,
         "chance": chance}
        for (box, region_mask), chance in ious
    ]  # fmt: skip


def measures_of(
    task: Task, cases: Sequence[Case], records: Sequence[Record], similar: Similarity | None
) -> dict[str, Measure]:
    measures = task.score(cases, records)
    if similar is not None and task.similar:
        told = [text_of(record) for record in records]
        near = similar(told, [case.answers for case in cases])
        measures["similarity"] = Measure.mean(
            [value if text else 0.0 for value, text in zip(near, told, strict=True)]
        )
    return measures


def summary(measure: Measure, groups: Sequence[str]) -> dict[str, Any]:
    low, high = measure.interval(groups)
    values: dict[str, Any] = {
        "value": measure.value,
        "low": low,
        "high": high,
        "items": len(measure),
    }
    if measure.chance is not None:
        values["chance"] = measure.chance
    return {key: _rounded(value) for key, value in values.items()}


def chances(systems: dict[str, Any]) -> dict[str, float]:
    """Measure -> what knowing nothing gives, of those where that is known. systems: of
    scores.json."""
    measures = next(iter(systems.values()))["scores"]
    return {name: one["chance"] for name, one in measures.items() if "chance" in one}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value


def strata_of(task: Task, system: System) -> dict[str, np.ndarray]:
    """Label -> rows (bool) of a system's cases: the size of the region, and the task's own."""
    labels: dict[str, list[bool]] = {}
    count = len(system.cases)
    for row, (case, record) in enumerate(zip(system.cases, system.records, strict=True)):
        area, own = record.get("area"), task.strata(case)
        size = None if area is None else size_of(area)
        for label in (size, own):
            if label is not None:
                labels.setdefault(str(label), [False] * count)[row] = True
    sizes = ["small region", "medium region", "large region"]
    order = [s for s in sizes if s in labels] + sorted(labels.keys() - set(sizes))
    return {label: np.array(labels[label]) for label in order}


def size_of(area: int) -> str:
    size = "small" if area < SMALL else "medium" if area < LARGE else "large"
    return f"{size} region"


def scores(task: Task, systems: Sequence[System]) -> dict[str, Any]:
    """The "systems" of scores.json."""
    return {
        system.name: {
            "scores": {
                name: summary(measure, system.groups) for name, measure in system.measures.items()
            },
            "strata": {
                label: summary(
                    system.headline[1].only(rows),
                    [group for group, row in zip(system.groups, rows, strict=True) if row],
                )
                for label, rows in strata_of(task, system).items()
            },
            "errors": sum("error" in record for record in system.records),
            "seconds": round(sum(record.get("seconds", 0.0) for record in system.records), 3),
        }
        for system in systems
    }


def left_out(records: Sequence[Record]) -> dict[str, list[str]]:
    """Why cases could not be shown -> their ids, and what was wrong with each."""
    reasons: dict[str, list[str]] = {}
    for id, record in {r["id"]: r for r in records if "left_out" in r}.items():
        why, more = record["left_out"], record.get("error", "")
        reasons.setdefault(why, []).append(id if more in ("", why) else f"{id}: {more}")
    return reasons


def comparison(first: System, second: System) -> dict[str, Any]:
    """The paired test of two systems over the cases that both were asked."""
    both = {case.id for case in first.cases} & {case.id for case in second.cases}
    if not both:
        raise LoupeError("the two runs share no case: compare runs over the same data")
    rows = [
        np.array([index for index, case in enumerate(one.cases) if case.id in both])
        for one in (first, second)
    ]
    groups = [
        group for group, case in zip(first.groups, first.cases, strict=True) if case.id in both
    ]
    tests = {}
    for name in first.measures.keys() & second.measures.keys():
        ours, theirs = first.measures[name].only(rows[0]), second.measures[name].only(rows[1])
        tests[name] = asdict(compare(ours, theirs, groups))
    return {name: tests[name] for name in first.measures if name in tests}


def machine() -> dict[str, Any]:
    """Say where a run was made, and the most memory it held, in megabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes = peak / (1024 if sys.platform != "darwin" else 1024**2)
    values: dict[str, Any] = {
        "python": platform.python_version(), "torch": torch.__version__,
        "machine": platform.machine(), "threads": torch.get_num_threads(),
        "peak_memory_mb": round(megabytes),
    }  # fmt: skip
    if torch.cuda.is_available():
        values["device"] = torch.cuda.get_device_name()
        values["peak_device_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return values


def save_json(values: dict[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
