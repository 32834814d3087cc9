"""`loupe segment`: region masks as files, of what one points at or of everything."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from demo.arguments import everything_of, everything_wanted, models_of, regions_of
from demo.commands import common

SAYS = "cut regions out of a picture, or find everything in it"
EXAMPLES = """With several regions, --out mask.png becomes mask-1.png, mask-2.png, ...

examples:
  loupe segment scene.png --point 120,80 --out mask.png
  loupe segment scene.png --box 10,20,90,110 --not-point 50,60 --out mask.png --overlay seen.png
  loupe segment scene.png --point 120,80 --proposals --out mask.png   up to three readings of it
  loupe segment scene.png --mask old.png --format polygons --out new.json
  loupe segment photo.jpg --everything --segmenter auto --out found.json --overlay seen.png
  loupe segment photos/ --everything --out found/                     run again to resume
  loupe segment photo.jpg --text "a cat" --segmenter sam3 --out cats.json"""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE", help="a picture file; with --everything also a"
                         " folder of them")  # fmt: skip
    regions_of(command)
    command.add_argument("--proposals", action="store_true",
                         help="all readings of a click: part, object, whole")  # fmt: skip
    command.add_argument("--text", metavar="T", help="everything that fits a text, with a segmenter"
                         " that reads text (sam3)")  # fmt: skip
    command.add_argument("--out", metavar="FILE", required=True, help="where to: .png, or .json;"
                         " for a folder of pictures a folder")  # fmt: skip
    command.add_argument("--format", choices=["png", "rle", "polygons"], help="a PNG, COCO's"
                         " run lengths or polygons (default: by the ending of --out)")  # fmt: skip
    command.add_argument("--clean", metavar="N", type=int, help="fill holes, drop specks of fewer"
                         " pixels (32); 0 keeps all")  # fmt: skip
    command.add_argument("--overlay", metavar="FILE", help="the picture with its regions numbered")
    everything_of(command)
    models_of(command)
    command.add_argument("--json", action="store_true", help="report as one JSON object")


def run(args: argparse.Namespace) -> int:
    from adapters.images import load_image
    from qformer.contracts import LoupeError, RegionError

    if args.everything and (args.regions or args.text):
        raise LoupeError("--everything finds all: leave out --point, --box, --mask and --text")
    if args.everything and Path(args.image or "").is_dir():
        return whole_folder(args)
    if not args.everything and not args.regions and not args.text:
        raise RegionError("nothing is pointed at: give --point X,Y or --box X0,Y0,X1,Y1")
    out = Path(args.out)
    form = args.format or ("rle" if out.suffix.lower() == ".json" else "png")
    image = load_image(args.image)
    if args.everything or args.text:
        return several(args, image, form)
    view = assistant_of(args).encode(image)
    return pointed(args, view, form)


def assistant_of(args: argparse.Namespace) -> Any:
    assistant = common.assistant_of(args)
    set_cleaning(assistant.segmenter, args.clean)
    return assistant


def segmenter_of(args: argparse.Namespace) -> Any:
    """The segmenter alone: --everything asks nothing of the language model."""
    from adapters.build import own_segmenter
    from adapters.segmenters import open_segmenter

    dtype = common.dtype_wanted(args)
    if args.segmenter is not None:
        segmenter = open_segmenter(args.segmenter, dtype, args.device).to(args.device)
    else:
        segmenter = own_segmenter(common.model_of(args), dtype, args.device)
    if segmenter is None:
        return assistant_of(args).segmenter
    set_cleaning(segmenter, args.clean)
    return segmenter


def made_by(args: argparse.Namespace) -> dict[str, Any]:
    """What decides, beside the settings, what `segmenter_of` finds."""
    from adapters.defaults import default_named, folder_of
    from adapters.segmenters import AUTO, default_name
    from demo.everything import state_of

    name = args.segmenter or common.model_of(args)
    name = default_name(args.device) if name == AUTO else name
    name = default_named(name) or name
    return {
        "segmenter": name,
        "files": state_of(str(folder_of(name))),
        "clean": args.clean,
        "dtype": args.dtype,
        "device": str(args.device).partition(":")[0],
    }


def set_cleaning(segmenter: Any, pixels: int | None) -> None:
    from adapters.components import Cleanup

    if pixels is not None and segmenter is not None:
        segmenter.cleanup = Cleanup(pixels, pixels)


def pointed(args: argparse.Namespace, view: Any, form: str) -> int:
    from adapters import coco, draw
    from demo import batch

    found = []
    for number, wanted in enumerate(args.regions, 1):
        found += batch.regions(view, wanted, number, every=args.proposals)
    paths = numbered(Path(args.out), len(found))
    report = []
    for region, path in zip(found, paths, strict=True):
        known = {"score": region.score} if region.score is not None else {}
        coco.write_region(region.region_mask, path, form, image=args.image, **known)
        report.append({**batch.described(region), "file": str(path)})
    if args.overlay:
        masks = enumerate((region.region_mask.cpu().numpy() for region in found), 1)
        common.save(draw.overlay(view.image.numpy(), masks), Path(args.overlay))
    if args.json:
        common.print_json({"image": args.image, "regions": report})
        return 0
    for region, one in zip(found, report, strict=True):
        box = ",".join(map(str, one["box"]))
        score = "" if one["score"] is None else f", score {one['score']:.2f}"
        print(f"{region.name}: box {box}, {one['area']} pixels{score}: {one['file']}")
    return 0


def several(args: argparse.Namespace, image: Any, form: str) -> int:
    """--everything and --text: many areas of one picture, in one JSON file or a PNG each."""
    from adapters import coco
    from demo import everything

    segmenter, settings = segmenter_of(args), everything_wanted(args)
    if args.text:
        found = segmenter.find(segmenter.encode(image.to(args.device)), args.text)
    else:
        found = everything.picture(segmenter, image, settings)
    out = Path(args.out)
    paths = [out]
    if form == "png":
        paths = numbered(out, len(found))
        for one, path in zip(found, paths, strict=True):
            coco.write_region(one.region_mask, path, form)
    else:
        used = segmenter.settings(settings)
        coco.write_json(out, everything.report(args.image, image, found, used, form))
    if args.overlay:
        common.save(everything.overlay(image, found), Path(args.overlay))
    files = [str(path) for path in paths]
    if args.json:
        file = {"file": files[0]} if len(files) == 1 else {"files": files}
        common.print_json({"image": args.image, "found": len(found), **file})
    else:
        named = files[0] if len(files) == 1 else f"{files[0]} to {files[-1]}" if files else ""
        print(f"{len(found)} areas: {named or 'nothing was written'}")
    return 0


def whole_folder(args: argparse.Namespace) -> int:
    from demo import everything
    from qformer.contracts import LoupeError

    if args.overlay:
        raise LoupeError("--overlay draws one picture: leave it out for a folder")
    if args.format == "png":
        raise LoupeError("--format png is for one picture: a folder is written as JSON")
    source, out = Path(args.image), Path(args.out)
    counts = everything.folder(
        source,
        out,
        lambda: segmenter_of(args),
        everything_wanted(args),
        args.format or "rle",
        made_by(args),
    )
    if args.json:
        common.print_json({"folder": str(source), "out": str(out), **counts})
    else:
        print(
            f"{counts['pictures']} pictures, {counts['done']} looked at now, {counts['before']}"
            f" before, {counts['failed']} failed; {counts['masks']} masks:"
            f" {out / everything.DATASET}"
        )
    return 0


def numbered(path: Path, count: int) -> list[Path]:
    """mask.png, or mask-1.png, mask-2.png, ..."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(1, count + 1)]
