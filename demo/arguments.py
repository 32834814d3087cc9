"""Options that several commands share. Imports nothing heavy."""

from __future__ import annotations

import argparse
import json
from typing import Any


def shown(value: Any) -> str:
    """A value as an error names it: as JSON, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def numbers(count: int, text: str) -> tuple[float, ...]:
    """ "X,Y" -> floats, exactly `count` of them."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count or not all(abs(value) < 1e9 for value in values):
        form = "X,Y" if count == 2 else "X0,Y0,X1,Y1"
        raise argparse.ArgumentTypeError(f"{text!r} is not {form} in pixels")
    return values


def corner(text: str) -> tuple[float, ...]:
    return numbers(2, text)


def corners(text: str) -> tuple[float, ...]:
    return numbers(4, text)


class AddRegion(argparse.Action):
    """Appends to `namespace.regions`, in the form of a batch line; --not-point to the last one."""

    def __call__(self, parser, namespace, values, option_string=None):
        regions = list(namespace.regions)
        if option_string == "--point":
            regions.append({"points": [(*values, 1)]})
        elif option_string == "--box":
            regions.append({"box": values})
        elif option_string == "--mask":
            regions.append({"mask": values})
        elif not regions or "mask" in regions[-1]:
            parser.error("--not-point excludes from the --point or --box before it: give one first")
        else:
            last = regions[-1]
            regions[-1] = {**last, "points": [*last.get("points", ()), (*values, 0)]}
        namespace.regions = regions


def regions_of(command: argparse.ArgumentParser, masks: bool = True) -> None:
    group = command.add_argument_group("regions, in order")
    group.add_argument("--point", metavar="X,Y", type=corner, action=AddRegion, dest="regions",
                       help="a region: the thing at this pixel")  # fmt: skip
    group.add_argument("--not-point", metavar="X,Y", type=corner, action=AddRegion, dest="regions",
                       help="... but not what is at this pixel")  # fmt: skip
    group.add_argument("--box", metavar="X0,Y0,X1,Y1", type=corners, action=AddRegion,
                       dest="regions", help="a region: the thing inside this box")  # fmt: skip
    if masks:
        group.add_argument("--mask", metavar="FILE", action=AddRegion, dest="regions",
                           help="a region: what is bright in this picture, or a"
                           " JSON file of COCO run lengths, polygons or points")  # fmt: skip


def everything_of(command: argparse.ArgumentParser) -> None:
    """SAM's automatic mask generator, under its own names."""
    group = command.add_argument_group("everything")
    group.add_argument("--everything", action="store_true", help="find all by a grid of clicks")
    for name, kind, says in (
        ("points-per-side", int, "clicks a side (16 on a CPU, 32 on a GPU)"),
        ("points-per-batch", int, "clicks at once, which sets the memory (8, or 64)"),
        ("pred-iou-thresh", float, "keep masks of higher predicted IoU (the model's: SAM 0.88)"),
        (
            "stability-score-thresh",
            float,
            "keep masks of a higher stability (the model's: SAM 0.95)",
        ),
        (
            "stability-score-offset",
            float,
            "how far the threshold moves for it (the model's: SAM 1)",
        ),
        ("box-nms-thresh", float, "of two boxes that overlap more, keep the better (0.7)"),
        ("crop-n-layers", int, "look again at 4, 16, ... crops (0)"),
        ("crop-nms-thresh", float, "as box-nms-thresh, between crops (0.7)"),
        ("crop-overlap-ratio", float, "how far crops overlap (512/1500)"),
        ("crop-n-points-downscale-factor", int, "fewer clicks a side on each layer (1)"),
        ("min-mask-region-area", int, "clean smaller holes and specks (0)"),
    ):
        group.add_argument(f"--{name}", metavar="N", type=kind, help=says)


def everything_wanted(args: argparse.Namespace) -> Any:
    """The settings that the options change."""
    from qformer.proposals import Everything

    given = {name: getattr(args, name) for name in Everything.names()}
    return Everything(**{name: value for name, value in given.items() if value is not None})


def models_of(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("model")
    group.add_argument("--model", metavar="M", help="photos, paintings, a checkpoint's folder, or"
                       " the folder or hub id of a published BLIP-2 or InstructBLIP (photos; where"
                       " its parts are not set up, paintings: loupe setup)")  # fmt: skip
    group.add_argument("--vision", metavar="V", help="for a LAVIS .pth without its vision encoder:"
                       " that one's folder or hub id")  # fmt: skip
    group.add_argument("--language", metavar="L", help="... and its language model's")
    group.add_argument("--tokenizer", metavar="T", help="... and, for InstructBLIP's, that of its"
                       " Q-Former (bert-base-uncased)")  # fmt: skip
    group.add_argument(
        "--segmenter",
        metavar="S",
        help="another segmenter: a short name (see"
        " loupe segmenters), a folder, a hub id, or auto for the best default",
    )
    group.add_argument("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    dtype_of(group)
    group.add_argument("--quantize", choices=["int8", "nf4"], help="the language model's linear"
                       " layers, to 8 or 4 bits")  # fmt: skip
    group.add_argument("--device-map", choices=["auto"], help="spread the language model over all"
                       " GPUs, then the CPU")  # fmt: skip


def dtype_of(group: Any) -> None:
    group.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], default="fp32",
                       help="of the frozen parts (%(default)s)")  # fmt: skip


def decoding_of(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("how answers are written")
    group.add_argument("--preset", choices=["caption", "vqa", "chat"], help="BLIP-2's settings for"
                       " captions or questions, or greedy (default: the model's own)")  # fmt: skip
    group.add_argument("--composer", choices=["regions", "global+regions", "text"],
                       help="what stands for regions in the prompt: their tokens, with or without"
                       " the picture's, or captions of them (the model's own)")  # fmt: skip
    group.add_argument("--max-new-tokens", metavar="N", type=int, help="most tokens of an answer")
    group.add_argument("--beams", metavar="N", type=int, help="1 is greedy")
    group.add_argument("--temperature", metavar="T", type=float, help="0 is greedy")
