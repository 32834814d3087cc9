"""`loupe train segmenter`: tune a segmenter on masks in COCO form, or train a small one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from adapters.segmenter_lite import LiteSamConfig, LiteSegmenter
from adapters.segmenters import open_segmenter, save_segmenter
from qformer.config import from_dict
from qformer.console import Parser
from qformer.contracts import LoupeError
from train.config import changed
from train.data.sample import Tally, lines_of
from train.loop import LoopConfig, fit
from train.segmenter.data import read_pictures, split
from train.segmenter.neck import NeckStage
from train.segmenter.score import measure
from train.segmenter.stage import TuneConfig, TuneStage

NEW = "new:lite"
TAUGHT_BY = "embedded"  # whose decoder a new one takes over
NEW_LOOP = {"lr": 7e-4, "ema": 0.99}  # what it takes to start from nothing
NECK_LOOP = {"lr": 2e-3, "warmup": 20, "batch": 4}
EXAMPLES = """The data set is COCO's form: what `loupe segment FOLDER --everything` writes as
instances.json, corrected in the chat or not, COCO's own annotations, or `loupe data masks`.

examples:
  loupe train segmenter found/instances.json --images photos --from sam2.1-tiny --out runs/mine
  loupe train segmenter masks.json --from new:lite --augment --steps 8000 --out runs/lite
  loupe chat --segmenter runs/mine/segmenter"""


def opened(source: str, size: int | None, device: str) -> Any:
    """The segmenter to train; size: pixels a side of a lite one, new or not."""
    if source == NEW:
        config = LiteSamConfig() if size is None else LiteSamConfig(image_size=size)
        segmenter = LiteSegmenter.new(config)
        segmenter.model.adopt(open_segmenter(TAUGHT_BY).model)
        return LiteSegmenter(segmenter.model).to(device)  # with the positions it now has
    segmenter = open_segmenter(source, device=device).to(device)
    if size is not None:
        if not isinstance(segmenter, LiteSegmenter):
            raise LoupeError(f"--size goes with a lite segmenter, not with {segmenter.family}")
        segmenter = segmenter.at(size).to(device)
    if not segmenter.capabilities.points:
        raise LoupeError(f"{segmenter.family} takes no clicks: tune another segmenter")
    return segmenter


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="loupe train segmenter", description="Tune a segmenter on masks in COCO form.",
        epilog=EXAMPLES,
    )  # fmt: skip
    parser.add_argument("data", metavar="DATA.json", type=Path, help="a data set in COCO form")
    parser.add_argument("--images", metavar="FOLDER", type=Path,
                        help="where its pictures lie (beside it)")  # fmt: skip
    parser.add_argument(
        "--from",
        metavar="S",
        dest="source",
        default="auto",
        help=f"a short name, folder or hub id (%(default)s); {NEW}: an untrained one on the trunk "
        "of an EfficientNet",
    )
    parser.add_argument("--size", type=int, help="pixels a side of a lite one (its own; new: 512)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("runs/segmenter"),
                        help="run it again to resume (%(default)s)")  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu, cuda (%(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="pictures a step (%(default)s)")
    parser.add_argument("--masks", type=int, default=4, help="of each picture (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="corrections, at most (%(default)s)")
    parser.add_argument("--lr", type=float, help=f"peak rate (1e-4; new: {NEW_LOOP['lr']:g})")
    parser.add_argument("--augment", action="store_true", help="see each picture in ever new ways")
    parser.add_argument("--set", action="append", default=[], metavar="A=B", dest="changes",
                        help="a setting of the loop, as loop.ema=0.99; again for more")  # fmt: skip
    parser.add_argument("--neck", metavar="STEPS", type=int, default=150,
                        help="in which a new one's neck learns alone (%(default)s)")  # fmt: skip
    parser.add_argument("--hold", type=float, default=0.1,
                        help="share of the pictures to measure on (%(default)s)")  # fmt: skip
    parser.add_argument("--measure", metavar="DATA.json", type=Path,
                        help="measure on this data set instead")  # fmt: skip
    arguments = parser.parse_args(argv)
    new = NEW_LOOP if arguments.source == NEW else {"lr": 1e-4}
    loop = {"steps": arguments.steps, "batch": arguments.batch, **new}
    loop["warmup"] = min(100, arguments.steps // 10)
    if arguments.lr is not None:
        loop["lr"] = arguments.lr
    values: dict[str, Any] = {"loop": loop, "masks": arguments.masks, "rounds": arguments.rounds}
    values["augment"] = arguments.augment
    config = from_dict(TuneConfig, changed(values, arguments.changes), "--set")
    tally = Tally()
    data = read_pictures(arguments.data, arguments.images or arguments.data.parent, tally)
    if arguments.measure is None:
        learned, held = split(data, arguments.hold)
    else:
        learned, held = data, read_pictures(arguments.measure, arguments.measure.parent, tally)
    segmenter = opened(arguments.source, arguments.size, arguments.device)
    if arguments.source == NEW:
        views = replace(config, masks=1, loop=LoopConfig(steps=arguments.neck, **NECK_LOOP))
        neck = NeckStage(TuneStage(segmenter, learned, views), open_segmenter(TAUGHT_BY))
        fit(neck, views.loop, arguments.out / "neck", lambda line: print(line, flush=True))
    stage = TuneStage(segmenter, learned, config, held)
    told = [sum(len(one.areas) for one in some) for some in (learned, held)]
    print(f"{told[0]} masks to learn, {told[1]} to measure on", flush=True)
    for line in lines_of(tally):
        print(f"left out: {line}", flush=True)
    before = measure(segmenter, held)
    fit(stage, config.loop, arguments.out, lambda line: print(line, flush=True))
    folder = arguments.out / "segmenter"
    save_segmenter(segmenter, folder)
    after = measure(segmenter, held)
    record = {"config": asdict(config), "before": before, "after": after}
    (arguments.out / "measured.json").write_text(json.dumps(record, indent=2) + "\n")
    for name in before:
        print(f"mean IoU at {name}: {before[name]:.3f} before, {after[name]:.3f} after")
    print(f"saved: {folder}  (loupe chat --segmenter {folder})")
    return 0
