"""`loupe train segmenter`: tune a segmenter's decoder on masks in COCO form.

As SAM was trained (arXiv 2304.02643, appendix A): each mask is first asked for by a click or a
loose box, then corrected by clicks where the answer was wrong, its logits fed back; focal and dice
20:1, the predicted IoU by squared error, of an ambiguous click the best mask alone. The image
encoder stays as it is, so a picture is encoded once.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.coco import read_dataset
from adapters.images import load_image
from adapters.prompts import Prompts
from adapters.segmenters import open_segmenter, save_segmenter
from qformer.console import Parser
from qformer.contracts import ImageError, LoupeError, RegionError
from train.data.coco import area_of, by_picture, picture_of, pictures_in
from train.data.pictures import Gallery
from train.data.sample import Area, Tally, lines_of
from train.embedded.segmenter import click_inside, click_losses, correcting_clicks, loose_box
from train.loop import LoopConfig, fit

KEPT = 64  # encoded pictures
SMALLEST = 4  # places of the low resolution that a mask must cover to be learned from
EXAMPLES = """The data set is COCO's form: what `loupe segment FOLDER --everything` writes as
instances.json, corrected in the chat or not, or COCO's own annotations.

examples:
  loupe train segmenter found/instances.json --images photos --from sam2.1-tiny --out runs/mine
  loupe chat --segmenter runs/mine/segmenter"""


@dataclass(frozen=True)
class Target:
    """A mask to learn: the picture's file and the area of one thing."""

    file: Path
    area: Area


def targets(dataset: Path, images: Path, tally: Tally | None = None) -> list[Target]:
    """Every annotation that is one thing (not a crowd); what cannot be read is counted in `tally`.
    Raises LoupeError where there is none."""
    tally = Tally() if tally is None else tally
    held, gallery = read_dataset(dataset), Gallery(images)
    pictures = pictures_in(held, tally)
    areas = by_picture(
        held,
        pictures,
        tally,
        lambda one, image: (
            area_of(one, image) if one.get("segmentation") and not one.get("iscrowd") else None
        ),
    )
    found, missing = [], []
    for id, here in areas.items():
        with tally.row(f"image {id}"):
            file = Path(picture_of(pictures[id], gallery).key)
            found += [Target(file, area) for area in here if area is not None]
            missing += [] if file.is_file() else [file]
    if not found:
        reasons = "; ".join(lines_of(tally)) or "segment some pictures first"
        raise LoupeError(f"{dataset} holds no masks: {reasons}")
    if missing:
        raise LoupeError(
            f"{len(missing)} of {len(areas)} pictures are not below {images}, {missing[0].name} the"
            " first: say where with --images"
        )
    return found


class TuneStage:
    """A stage of train/loop.py. Each step takes `batch` masks, each under a prompt and `rounds`
    corrections."""

    def __init__(self, segmenter: Any, data: list[Target], batch: int, rounds: int = 2) -> None:
        self.module, self.data, self.count, self.rounds = segmenter, data, batch, rounds
        self.side = segmenter.low_size
        self._kept: OrderedDict[Path, Any] = OrderedDict()
        for name, parameter in segmenter.named_parameters():
            parameter.requires_grad_(not name.startswith(("model.vision_enc", "model.image_enc")))

    def encode(self, file: Path) -> Any:
        """A picture's embedding, of those used last from memory."""
        if file not in self._kept:
            self._kept[file] = self.module.encode(load_image(file).to(self.module.device))
        self._kept.move_to_end(file)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[file]

    def goal(self, target: Target, embedding: Any) -> Tensor:
        """The mask in the decoder's frame, bool (side, side): as the picture lies in the input."""
        region_mask = target.area.region_mask(embedding.size).float()
        shares = [kept / self.module.input_size for kept in embedding.scaled_size]
        rows, columns = (max(1, round(share * self.side)) for share in shares)
        small = F.adaptive_avg_pool2d(region_mask[None], (rows, columns))[0] >= 0.5
        return F.pad(small, (0, self.side - columns, 0, self.side - rows))

    def batch(
        self, rng: np.random.Generator, progress: float = 1.0, place: int = 0
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for _ in range(50 * self.count):
            target = self.data[int(rng.integers(len(self.data)))]
            try:
                embedding = self.encode(target.file)
                goal = self.goal(target, embedding)
            except (ImageError, RegionError):
                continue  # one bad file must not end the run
            if goal.sum() < SMALLEST:
                continue
            inside = goal.numpy()
            row = {"embedding": embedding, "goal": goal, "click": click_inside(inside, rng)}
            row["box"] = loose_box(inside, rng) if rng.random() < 0.5 else None
            rows.append(row)
            if len(rows) == self.count:
                return rows
        raise LoupeError("no mask of the data set can be learned from: all are too small or broken")

    def losses(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Means over the batch: masks, and iou, of the first answer and of the corrected ones."""
        sums: dict[str, list[Tensor]] = {}
        for row in batch:
            for round_, (loss, misfit) in enumerate(self.interact(row)):
                kind = "first" if round_ == 0 else "corrected"
                sums.setdefault(kind, []).append(loss)
                sums.setdefault(f"{kind}_iou", []).append(misfit)
        return {name: torch.stack(values).mean() for name, values in sums.items()}

    def interact(self, row: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Losses of an answer and of its corrections."""
        device = self.module.device
        goal = row["goal"].to(device)[None, None]
        points = [] if row["box"] else [(*row["click"], 1)]
        logits, told = None, []
        for _ in range(1 + self.rounds):
            found, scores = self.ask(row["embedding"], points, row["box"], logits)
            loss, misfit, chosen = click_losses(found[:, None], scores[:, None], goal)
            told.append((loss, misfit))
            place, label = correcting_clicks(chosen, goal)
            points = [*points, (*place[0, 0].tolist(), int(label))]
            if self.module.capabilities.logits:
                logits = chosen[0].to(device)
            most = self.module.capabilities.max_points
            if most is not None and len(points) + 2 * bool(row["box"]) > most:
                break
        return told

    def ask(self, embedding: Any, points: list, box: Any, logits: Tensor | None) -> Any:
        """One prompt in the decoder's frame -> logits (1, m, side, side), scores (1, m)."""
        device, scale = self.module.device, self.module.input_size / self.side
        given = torch.tensor(points, dtype=torch.float32, device=device).reshape(1, -1, 3)
        boxes = None if box is None else torch.tensor([box], dtype=torch.float32, device=device)
        lone = len(points) == 1 and box is None and logits is None
        prompts = Prompts(
            given[..., :2] * scale if points else None,
            given[..., 2].long() if points else None,
            None if boxes is None else boxes * scale,
            logits,
            several=lone,
        )
        found, scores = self.module.decode(embedding, prompts)
        return found.float(), scores.float()

    @torch.no_grad()
    def measure(self, data: Sequence[Target], clicks: int = 3, seed: int = 0) -> dict[str, float]:
        """The mean IoU in the decoder's frame after 1 and after `clicks` clicks, best mask by the
        model's own score."""
        rng, sums, count = np.random.default_rng(seed), {"1 click": 0.0, f"{clicks} clicks": 0.0}, 0
        for target in data:
            try:
                embedding = self.encode(target.file)
                goal = self.goal(target, embedding)
            except (ImageError, RegionError):
                continue
            if goal.sum() < SMALLEST:
                continue
            points, logits, count = [(*click_inside(goal.numpy(), rng), 1)], None, count + 1
            torch.manual_seed(seed + count)
            for number in range(1, clicks + 1):
                found, scores = self.ask(embedding, points, None, logits)
                best = found[:, int(scores[0].argmax())]
                inside = best[0].cpu() > 0
                iou = float((inside & goal).sum() / (inside | goal).sum().clamp(min=1))
                for name in sums:
                    sums[name] += iou * (name.split()[0] == str(number))
                place, label = correcting_clicks(best[None], goal[None, None].to(best.device))
                points.append((*place[0, 0].tolist(), int(label)))
                logits = best if self.module.capabilities.logits else None
        return {name: round(total / max(1, count), 4) for name, total in sums.items()}


def split(data: list[Target], share: float) -> tuple[list[Target], list[Target]]:
    """Masks to learn and masks to measure on; those of one picture stay together."""
    files = sorted({target.file for target in data})
    order = np.random.default_rng(0).permutation(len(files))
    held = {files[i] for i in order[: int(share * len(files))]}
    return [t for t in data if t.file not in held], [t for t in data if t.file in held]


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
        help="a short name, folder or hub id (%(default)s)",
    )
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("runs/segmenter"),
                        help="run it again to resume (%(default)s)")  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu, cuda (%(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="masks a step (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="corrections of each (%(default)s)")
    parser.add_argument("--lr", type=float, default=1e-4, help="peak rate (%(default)s)")
    parser.add_argument("--hold", type=float, default=0.1,
                        help="share of the pictures to measure on (%(default)s)")  # fmt: skip
    arguments = parser.parse_args(argv)
    tally = Tally()
    data = targets(arguments.data, arguments.images or arguments.data.parent, tally)
    learned, held = split(data, arguments.hold)
    segmenter = open_segmenter(arguments.source, device=arguments.device).to(arguments.device)
    if not segmenter.capabilities.points:
        raise LoupeError(f"{segmenter.family} takes no clicks: tune another segmenter")
    stage = TuneStage(segmenter, learned, arguments.batch, arguments.rounds)
    config = LoopConfig(
        steps=arguments.steps,
        batch=arguments.batch,
        lr=arguments.lr,
        warmup=min(100, arguments.steps // 10),
    )
    print(f"{len(learned)} masks to learn, {len(held)} to measure on", flush=True)
    for line in lines_of(tally):
        print(f"left out: {line}", flush=True)
    before = stage.measure(held[:200])
    fit(stage, config, arguments.out, lambda line: print(line, flush=True))
    folder = arguments.out / "segmenter"
    save_segmenter(segmenter, folder)
    after = stage.measure(held[:200])
    told = {"masks": len(held[:200]), "before": before, "after": after}
    (arguments.out / "measured.json").write_text(json.dumps(told, indent=2) + "\n")
    if held:
        for name in before:
            print(f"mean IoU at {name}: {before[name]:.3f} before, {after[name]:.3f} after")
    print(f"saved: {folder}  (loupe chat --segmenter {folder})")
    return 0
