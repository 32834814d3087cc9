"""`loupe segmenters`: which there are, how large, how fast, under which licence."""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from typing import Any

from demo.commands import common

SAYS = "list the segmenters that --segmenter takes by name"
EXAMPLES = """examples:
  loupe segmenters
  loupe segmenters --measure               time those that are on this machine
  loupe segment photo.jpg --point 120,80 --segmenter sam2.1-tiny --out mask.png"""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--measure", action="store_true",
                         help="time a picture and a click with each that is here")  # fmt: skip
    command.add_argument("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    command.add_argument("--json", action="store_true", help="a JSON object for each")


def run(args: argparse.Namespace) -> int:
    from adapters.segmenters import KNOWN, default_name, is_here

    default, rows = default_name(args.device), []
    names = ["embedded", *KNOWN]
    for name in names:
        known = KNOWN.get(name)
        row: dict[str, Any] = {
            "name": name,
            "millions": known.millions if known else 1.3,
            "seconds": known.seconds if known else None,
            "licence": known.licence if known else "Apache-2.0",
            "hub": known.hub if known else None,
            "says": known.says if known else "ships with Loupe: painted scenes",
            "here": known is None or is_here(known),
            "default": name == default,
        }
        if args.measure and row["here"]:
            row |= measured(name, args.device)
        rows.append(row)
    if args.json:
        for row in rows:
            common.print_json(row)
        return 0
    print(f"{'name':18}{'M param.':>9}{'s/picture':>11}  {'licence':13}")
    for row in rows:
        seconds = row.get("encode_here", row["seconds"])
        if seconds is None:
            shown = "-"
        else:
            shown = f"{seconds:.2f}" + (" here" if "encode_here" in row else "")
        marks = ["default"] * row["default"] + ["here"] * row["here"]
        note = row["says"] + (f" ({', '.join(marks)})" if marks else "")
        print(f"{row['name']:18}{row['millions']:>9g}{shown:>11}  {row['licence']:13}{note}")
    print("\ns/picture: on one CPU thread, at the model's own size, where it was measured"
          " (docs/segmenters.md); --measure times what is on this machine")  # fmt: skip
    return 0


def measured(name: str, device: str) -> dict[str, float]:
    """Seconds to encode a picture and for one click after it, the better of two; or nothing."""
    import torch

    from adapters.segmenters import open_segmenter
    from qformer.contracts import LoupeError, RegionError, SegmentPrompt

    try:
        segmenter = open_segmenter(name).to(device)
    except LoupeError:
        return {}
    image = torch.randint(0, 256, (480, 640, 3), dtype=torch.uint8)
    click, times = SegmentPrompt(((320.0, 240.0, 1),)), []
    for _ in range(2):
        start = time.perf_counter()
        embedding = segmenter.encode(image.to(device))
        between = time.perf_counter()
        if segmenter.capabilities.points:
            with suppress(RegionError):  # nothing stands out in noise: that took as long
                segmenter.segment(embedding, click)
        times.append((between - start, time.perf_counter() - between))
    encode, clicked = (min(each) for each in zip(*times, strict=True))
    return {"encode_here": round(encode, 3), "click_here": round(clicked, 3)}
