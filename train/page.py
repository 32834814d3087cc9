"""A page one can look at: pictures with their regions drawn, and what is said about them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from adapters.draw import snapshot

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #222; background: #fff }
h1 { font-size: 1.3rem } .sample { display: flex; gap: 1.2rem; margin: 1.2rem 0;
       padding-top: 1.2rem; border-top: 1px solid #ddd }
.sample img { max-width: 22rem; align-self: flex-start }
.sample > div { min-width: 0 } .name { color: #777; font-size: .85rem }
.turn { margin: .35rem 0; overflow-wrap: anywhere } .learned { background: #cdebd5; color: #0b4a23;
       border-radius: 3px; padding: 0 .15em } .soft { background: #dbe6fb; color: #123a7a;
       border-radius: 3px; padding: 0 .3em } .wrong { background: #fbe0dc; color: #7a1d12;
       border-radius: 3px; padding: 0 .15em } table { border-collapse: collapse }
td, th { text-align: left; padding: .15rem 1rem .15rem 0; vertical-align: top }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 }
       .sample { border-color: #444 } }
"""


@dataclass
class Shown:
    """One picture: uint8 (height, width, 3); bool (height, width) of each region; its lines as
    HTML."""

    name: str
    image: Tensor
    regions: Sequence[Tensor]
    lines: Sequence[str]


def mark(text: str, kind: str = "") -> str:
    """Text as HTML, of a class of STYLE."""
    safe = html.escape(text)
    return f'<span class="{kind}">{safe}</span>' if kind else safe


def write_page(path: Path, title: str, head: str, samples: Iterable[Shown]) -> None:
    """One self-contained HTML file. head: HTML above the samples."""
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{head}"
    ]
    for shown in samples:
        numbered = [(n, region.numpy()) for n, region in enumerate(shown.regions, 1)]
        picture = snapshot(np.asarray(shown.image), numbered)
        lines = "".join(f'<div class="turn">{line}</div>' for line in shown.lines)
        parts.append(
            f'<div class="sample"><img src="{picture}" alt=""><div>'
            f'<div class="name">{html.escape(shown.name)}</div>{lines}</div></div>'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(parts) + "</html>\n", encoding="utf-8")
