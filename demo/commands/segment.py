"""`loupe segment`: region masks as files."""

from __future__ import annotations

import argparse
from pathlib import Path

from demo.arguments import models_of, regions_of
from demo.commands import common

SAYS = "cut regions out of a picture"
EXAMPLES = """With several regions, --out mask.png becomes mask-1.png, mask-2.png, ...

examples:
  loupe segment scene.png --point 120,80 --out mask.png
  loupe segment scene.png --box 10,20,90,110 --not-point 50,60 --out mask.png --overlay seen.png"""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE", help="a picture file")
    regions_of(command, masks=False)
    command.add_argument("--out", metavar="FILE", required=True, help="the region mask, a PNG")
    command.add_argument("--overlay", metavar="FILE", help="the picture with its regions numbered")
    models_of(command)
    command.add_argument("--json", action="store_true", help="report as one JSON object")


def run(args: argparse.Namespace) -> int:
    from PIL import Image

    from adapters import draw
    from adapters.images import load_image
    from demo import batch
    from qformer.contracts import RegionError

    if not args.regions:
        raise RegionError("nothing is pointed at: give --point X,Y or --box X0,Y0,X1,Y1")
    image = load_image(args.image)
    view = common.assistant_of(args).encode(image)
    regions = [batch.region(view, wanted, n) for n, wanted in enumerate(args.regions, 1)]
    report = []
    for number, region in enumerate(regions, 1):
        path = Path(args.out)
        if len(regions) > 1:
            path = path.with_name(f"{path.stem}-{number}{path.suffix}")
        common.save(Image.fromarray(region.region_mask.cpu().numpy()), path)
        report.append({**batch.described(region), "file": str(path)})
    if args.overlay:
        masks = enumerate((region.region_mask.cpu().numpy() for region in regions), 1)
        common.save(draw.overlay(image.numpy(), masks), Path(args.overlay))
    if args.json:
        common.print_json({"image": args.image, "regions": report})
        return 0
    for number, one in enumerate(report, 1):
        box = ",".join(map(str, one["box"]))
        measured = f"box {box}, {one['area']} pixels, score {one['score']:.2f}"
        print(f"region {number}: {measured}: {one['file']}")
    return 0
