"""A run as one HTML file that needs nothing else: scores, cases with their regions, confusion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from string import ascii_uppercase
from typing import Any

import numpy as np

from adapters.draw import data_uri, displayed, snapshot
from qformer.contracts import LoupeError
from train.eval.scores import CHANCE, System, chances
from train.eval.scoring import plain_text, text_of
from train.eval.task import Task

EXAMPLES = 8  # of the best, and of the worst
CLASSES = 14  # most rows of a confusion; the rest are counted together
LONG = 24  # letters of a choice, to be written once
OTHER = "anything else"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c1c1c; background: #fff }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2.2rem }
p.says { color: #555; margin-top: .2rem } table { border-collapse: collapse }
th, td { padding: .25rem .5rem; text-align: right; border-bottom: 1px solid #ddd;
  white-space: nowrap }
th:first-child, td:first-child { text-align: left } td small { color: #666 }
tr.ours td { font-weight: 600 } .scroll { overflow-x: auto }
.bar { position: relative; width: 8rem; height: .8rem; background: #eee; border-radius: 2px }
.bar i { position: absolute; top: 0; bottom: 0; background: #0072b2; opacity: .35 }
.bar b { position: absolute; top: -2px; bottom: -2px; width: 2px; background: #004c78 }
.bar s { position: absolute; top: -4px; bottom: -4px; border-left: 1px dashed #888 }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
.cases figure { margin: 0; border: 1px solid #ddd; border-radius: 6px; padding: .6rem }
.cases img { max-width: 100%; max-height: 14rem; display: block; margin: 0 auto .4rem }
.cases dl { margin: 0; font-size: .87rem } .cases dt { color: #666; float: left; clear: left;
  width: 7.5rem } .cases dd { margin: 0 0 0 7.8rem; overflow-wrap: anywhere }
.right { color: #006b4a } .wrong { color: #a33900 } td.heat { text-align: center }
.narrow th { white-space: normal; vertical-align: bottom; font-weight: 500 }
dl.about { font-size: .87rem } dl.about dt { color: #666 } dl.about dd { margin: 0 0 .3rem 1rem;
  overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #161616 }
  th, td, .cases figure { border-color: #3a3a3a } .bar { background: #333 }
  td small, p.says, dt { color: #aaa !important } .bar b { background: #9fd3f5 }
  .right { color: #5fd0a5 } .wrong { color: #ff9b66 } }
"""


def page(task: Task, scores: dict[str, Any], systems: Sequence[System]) -> str:
    """scores: what scores.json holds. systems: as `scores.systems_of` gives them."""
    last = systems[-1]
    return _whole(
        scores,
        _table(scores["systems"]),
        _strata(scores["systems"]),
        _cases(systems),
        _confusion(last) if task.closed else "",
    )


def table_page(scores: dict[str, Any]) -> str:
    """The page of a task that has no cases to show."""
    return _whole(scores, _table(scores["systems"]))


def _whole(scores: dict[str, Any], *parts: str) -> str:
    title = escape(scores["task"])
    says = f"{escape(scores['says'])}<br>Rule: {escape(scores['rule'])}"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}: Loupe</title><style>{STYLE}</style><body><h1>{title}</h1>"
        f"<p class=says>{says}</p>{''.join(parts)}{_about(scores)}</body></html>\n"
    )


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(systems: dict[str, Any]) -> str:
    names = list(dict.fromkeys(name for one in systems.values() for name in one["scores"]))
    scale = max(1.0, *((one["scores"][names[0]]["high"] or 0) for one in systems.values()))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    chance = chances(systems)
    rows = []
    if chance:
        cells = "".join(
            f"<td>{number(chance[name]) if name in chance else ''}</td>" for name in names
        )
        rows.append(f"<tr><td>{CHANCE}</td><td></td>{cells}</tr>")
    for system, one in systems.items():
        cells = "".join(_cell(one["scores"].get(name)) for name in names)
        bar = _bar(one["scores"][names[0]], scale, chance.get(names[0]))
        errors = f" <small>{one['errors']} not answered</small>" if one["errors"] else ""
        ours = ' class="ours"' if system.endswith((": regions", ": picture")) else ""
        rows.append(f"<tr{ours}><td>{escape(system)}{errors}</td><td>{bar}</td>{cells}</tr>")
    return (
        "<h2>Scores, with 95 % bootstrap intervals</h2><div class=scroll><table><tr><th></th>"
        f"<th></th>{head}</tr>{''.join(rows)}</table></div>"
    )


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "<td></td>"
    low, high = number(score["low"]), number(score["high"])
    return f"<td>{number(score['value'])} <small>{low}–{high}</small></td>"


def _bar(score: dict[str, Any], scale: float, chance: float | None) -> str:
    if score["value"] is None:
        return ""
    low, value, high = (100 * score[key] / scale for key in ("low", "value", "high"))
    by_chance = "" if chance is None else f'<s style="left:{100 * chance / scale:.1f}%"></s>'
    return (
        f'<div class="bar">{by_chance}<i style="left:{low:.1f}%;width:{max(high - low, 0.4):.1f}%">'
        f'</i><b style="left:{value:.1f}%"></b></div>'
    )


def _strata(systems: dict[str, Any]) -> str:
    labels = list(dict.fromkeys(label for one in systems.values() for label in one["strata"]))
    if not labels:
        return ""
    most = next(iter(systems.values()))["strata"]
    head = "".join(
        f"<th>{escape(label)}<br><small>{most.get(label, {}).get('items', '')}</small></th>"
        for label in labels
    )
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(_cell(one['strata'].get(k)) for k in labels)}</tr>"
        for name, one in systems.items()
    )
    head_name = escape(next(iter(next(iter(systems.values()))["scores"])))
    return (
        f'<h2>{head_name} in parts</h2><div class="scroll narrow"><table><tr><th></th>{head}</tr>'
        f"{rows}</table></div>"
    )


def _cases(systems: Sequence[System]) -> str:
    """The best and the worst of the last system; of those as good, cases far apart."""
    last = systems[-1]
    order = np.argsort(-last.marks, kind="stable")
    best = [row for row in order if last.marks[row] > 0]
    worst = [row for row in order[::-1] if last.marks[row] < max(1e-9, *last.marks)]
    told = {
        system.name: dict(zip((c.id for c in system.cases), system.records, strict=True))
        for system in systems
    }
    parts = []
    for title, rows in (("Best", best), ("Worst", worst)):
        chosen = _apart(rows, last.marks)
        figures = "".join(filter(None, (_figure(last, row, told) for row in chosen)))
        if figures:
            named = f"{title} cases of {escape(last.name)}"
            parts.append(f"<h2>{named}</h2><div class=cases>{figures}</div>")
    return "".join(parts)


def _apart(rows: Sequence[int], marks: np.ndarray) -> list[int]:
    """EXAMPLES of the rows; where more are equally good, those at even distances."""
    if not rows:
        return []
    alike = [row for row in rows if marks[row] == marks[rows[0]]]
    if len(alike) >= EXAMPLES:
        return [alike[index * len(alike) // EXAMPLES] for index in range(EXAMPLES)]
    return list(rows[:EXAMPLES])


def _figure(system: System, row: int, told: dict[str, dict[str, Any]]) -> str:
    case, mark = system.cases[row], float(system.marks[row])
    try:
        image = case.picture.load()
        region_masks = case.region_masks((image.shape[0], image.shape[1]))
    except LoupeError:  # it was there when it was asked
        shown = ""
    else:
        regions = [(n, one.numpy()) for n, one in enumerate(region_masks, 1)]
        source = (
            snapshot(image.numpy(), regions) if regions else data_uri(displayed(image.numpy(), 360))
        )
        shown = f'<img alt="{escape(case.id)}" src="{source}">'
    answers = Counter(case.answers).most_common(3)
    truth = case.right or "; ".join(answer for answer, _ in answers)
    letters = lettered(case.choices)
    lines = [("asked", case.question or ("which is true?" if case.choices else "a caption"))]
    if letters:
        lines += [(letter, choice) for choice, letter in letters.items()]
    elif case.choices:
        lines.append(("choices", "; ".join(case.choices)))
    lines.append(("truth", letters.get(truth, truth)))
    body = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in lines)
    for name, records in told.items():
        if case.id in records:
            said = records[case.id].get("answer") or records[case.id].get("error") or "nothing"
            kind = ("right" if mark > 0.5 else "wrong") if name == system.name else ""
            short = escape(name.replace("loupe: ", ""))
            said = letters.get(said, str(said))
            body += f'<dt>{short}</dt><dd class="{kind}">{escape(said)}</dd>'
    return f"<figure>{shown}<dl>{body}<dt>score</dt><dd>{mark:.3f}</dd></dl></figure>"


def lettered(choices: Sequence[str]) -> dict[str, str]:
    """A letter for each of the choices where they are long; else {}."""
    if not any(len(choice) > LONG for choice in choices):
        return {}
    return dict(zip(choices, ascii_uppercase, strict=False))


def _confusion(system: System) -> str:
    """Truth down, answer across, the commonest first; what is rare is counted together."""
    pairs = Counter(
        (plain_text(case.truth), plain_text(text_of(record)))
        for case, record in zip(system.cases, system.records, strict=True)
    )
    truths, said = (_common(pairs, side) for side in (0, 1))
    right = [answer for answer in truths if answer in said]
    columns = [*right, *(answer for answer in said if answer not in right)][:CLASSES]
    shown: Counter[tuple[str, str]] = Counter()
    for (truth, answer), count in pairs.items():
        row = truth if truth in truths[:CLASSES] else OTHER
        shown[row, answer if answer in columns else OTHER] += count
    rows = []
    for truth in _named(truths[:CLASSES], truths):
        counts = [shown[truth, answer] for answer in _named(columns, said)]
        cells = "".join(_heat(count, sum(counts)) for count in counts)
        rows.append(f"<tr><td>{escape(truth)}</td>{cells}<td>{sum(counts)}</td></tr>")
    names = _named(columns, said)
    head = "".join(f"<th>{escape(name or '(nothing)')}</th>" for name in names)
    table = f"<table><tr><th></th>{head}<th>all</th></tr>{''.join(rows)}</table>"
    title = f"Confusion of {escape(system.name)}: truth down, answer across"
    return f'<h2>{title}</h2><div class="scroll narrow">{table}</div>'


def _common(pairs: Counter[tuple[str, str]], side: int) -> list[str]:
    """The names on one side of pairs, the commonest first."""
    total: Counter[str] = Counter()
    for pair, count in pairs.items():
        total[pair[side]] += count
    return [name for name, _ in total.most_common()]


def _named(shown: list[str], every: list[str]) -> list[str]:
    """Name those shown, and the rest as one where there are more."""
    return shown if len(shown) == len(every) else [*shown, OTHER]


def _heat(count: int, total: int) -> str:
    share = count / total if total else 0.0
    return (
        f'<td class="heat" style="background:rgba(0,114,178,{0.6 * share:.2f})">{count or ""}</td>'
    )


def _about(scores: dict[str, Any]) -> str:
    data = scores["data"]
    lines = [
        ("data", f"{data['cases']} cases of {data['path']}, sha256 {data['sha256']}"),
        *((f"model {name}", _told(about)) for name, about in scores["models"].items()),
        ("machine", _told(scores["machine"])),
        ("time", f"{scores['seconds']:.1f} s"),
    ]
    if "sentence_encoder" in scores:
        lines.append(("sentence encoder", _told(scores["sentence_encoder"])))
    for reason, one in scores["data"]["left_out"].items():
        lines.append((f"left out, {one['cases']}", f"{reason} ({', '.join(one['examples'])})"))
    body = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in lines)
    return f"<h2>How it was made</h2><dl class=about>{body}</dl>"


def _told(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{key}: {_told(value)}" if isinstance(value, dict) else f"{key} {value}"
        for key, value in values.items()
    )
