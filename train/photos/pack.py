"""Put a trained photo model where `build("photos")` looks, in half precision.

python -m train.photos.pack runs/photos/answers/checkpoint --images ../shared/data
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from adapters.build import locate, open_part
from adapters.checkpoint import LORA, load_config, load_trained, verify, write_manifest
from adapters.checkpoint import save_checkpoint as save
from adapters.config import PartConfig, TokenizerConfig
from adapters.files import whole_folder
from adapters.hybrid import HybridVisionEncoder
from adapters.registry import VISION_ENCODERS
from qformer.assistant import Suggestions
from qformer.console import Parser
from qformer.contracts import Decoding, LoupeError
from qformer.familiarity import Familiarity
from train.data.draw import by_picture
from train.data.readers import read
from train.data.sample import Picture
from train.data.source import DataConfig
from train.features import Augment, CacheConfig, Sight

DOMAIN = "photos of everyday things: people, animals, vehicles, food, clothes, sport"
LANGUAGE = "package:smollm2-135m-instruct"
TRUNK = "package:efficientnet-lite0"
# Pictures of a set. Of one set alone others look strange: fitted on Flickr8k's small squares, every
# photo of a camera would.
FAMILIAR = {"captions": 1800, "things": 190, "labels": 1400, "parts": 200, "expressions": 500}
# Photos of one thing that fills them lie a little further out than most: of six examples two at
# 1.06 and 1.17 of the farthest training photo, blank pictures and noise at 1.23 and more.
MARGIN = 1.19
SUGGESTIONS = Suggestions(picture=("describe the photo",), region=("what is this?",))
DECODING = Decoding(max_new_tokens=32)


def familiarity(
    vision: HybridVisionEncoder, pictures: Sequence[Picture], cache: Path
) -> Familiarity:
    """What pictures like those of training look like to the encoder."""
    sight = Sight(vision, CacheConfig(str(cache)), Augment(), trained=False)
    known, batches = Familiarity(vision.width), []
    for start in range(0, len(pictures), 50):
        seen = [sight.look(one, None) for one in pictures[start : start + 50]]
        sight.encode(seen)
        with torch.no_grad():
            batches.append(sight.embeds(sight.stack(seen)))
    known.fit(batches)
    known.whiten /= MARGIN
    return known


def pictures_of(file: Path, images: Path, count: int) -> list[Picture]:
    """So many pictures of a data set, drawn at random."""
    drawn = by_picture(read(DataConfig("folder", str(file), str(images))))
    order = np.random.default_rng(0).permutation(len(drawn))
    return [drawn[place][0] for place in order[:count]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description="Install a trained photo model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, default=Path("runs/photos/data"),
                        help="the data sets whose pictures are the familiar ones")  # fmt: skip
    parser.add_argument("--images", type=Path, required=True, help="where its pictures lie")
    parser.add_argument("--cache", type=Path, default=Path("runs/features"))
    parser.add_argument("--out", type=Path, default=Path("adapters/photos"))
    arguments = parser.parse_args(argv)
    folder, out = arguments.checkpoint, arguments.out
    verify(folder)
    config = load_config(folder)
    bridge, heads = load_trained(folder, config)
    vision = open_part(folder, VISION_ENCODERS, config.vision, torch.float32)
    if not isinstance(vision, HybridVisionEncoder) or config.tokenizer is None:
        raise LoupeError(f"{folder} is no photo model: its encoder is {config.vision.kind}")
    drawn = [
        picture
        for name, count in FAMILIAR.items()
        for picture in pictures_of(arguments.data / f"{name}.jsonl", arguments.images, count)
    ]
    bridge.familiarity = familiarity(vision, drawn, arguments.cache)
    bridge.config = dataclasses.replace(bridge.config, familiarity=True)
    vision.model.config = dataclasses.replace(vision.model.config, trunk=TRUNK)
    with whole_folder(out / "vision") as new:
        vision.save(new)
    words = locate(folder, config.tokenizer).folder
    with whole_folder(out / "tokenizer") as new:
        shutil.copytree(words, new, dirs_exist_ok=True)
    segmenter = PartConfig("lite_sam", "../segmenter") if (out / "segmenter").is_dir() else None
    config = dataclasses.replace(
        config,
        vision=PartConfig("hybrid", "../vision"),
        language=PartConfig("decoder", LANGUAGE),
        segmenter=segmenter,
        tokenizer=TokenizerConfig("../tokenizer"),
        bridge=bridge.config,
        domain=DOMAIN,
        decoding=DECODING,
        suggestions=SUGGESTIONS,
    )
    save(out / "loupe", config, bridge, folder / LORA, torch.float16, heads)
    if config.lora:
        halve(out / "loupe" / LORA / "adapter_model.safetensors")
    write_manifest(out / "loupe")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"installed: {out}, {size / 1e6:.1f} MB")
    return 0


def halve(file: Path) -> None:
    """Store these weights in half precision."""
    from safetensors.torch import load_file, save_file

    save_file({name: value.half() for name, value in load_file(file).items()}, file)


if __name__ == "__main__":
    raise SystemExit(main())
