"""`loupe export`: a model, or a prompt, for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from demo.arguments import models_of, regions_of
from demo.commands import common
from demo.commands.convert import tell

SAYS = "give a model, or a question as embeddings, to other programs"
EXAMPLES = """--to hf writes a folder that transformers opens, as a Blip2ForConditionalGeneration,
InstructBlipForConditionalGeneration or Blip2ForImageTextRetrieval, with a LoRA merged into it.
--prompt-embeds writes what the language model would read, (sequence, hidden), for a server that
takes embeddings in place of a prompt; regions are in it, and the server needs nothing of Loupe.

examples:
  loupe export exported --to hf --model my-model
  loupe export prompt.safetensors --prompt-embeds scene.png "what is this?" --point 120,80"""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("target", metavar="DST", help="a folder that is not there yet, or a"
                         " .safetensors file")  # fmt: skip
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--to", choices=["hf"], help="the whole model")
    what.add_argument("--prompt-embeds", nargs=2, metavar=("IMAGE", "QUESTION"),
                      help="one question, with the regions below")  # fmt: skip
    regions_of(command)
    models_of(command)
    command.add_argument("--json", action="store_true", help="report as one JSON object")


def run(args: argparse.Namespace) -> int:
    from adapters.convert import convert
    from adapters.defaults import folder_of

    if args.to:
        model = str(folder_of(common.model_of(args)))
        parts = (args.vision, args.language, args.tokenizer)
        tell(convert(model, Path(args.target), args.to, *parts), args.target, args.json)
        return 0
    return run_prompt(args)


def run_prompt(args: argparse.Namespace) -> int:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from adapters.images import load_image
    from demo import batch
    from qformer.contracts import LoupeError

    file = Path(args.target)
    if file.suffix != ".safetensors":
        raise LoupeError(f"{file} is to be a file: let its name end in .safetensors")
    if not file.parent.is_dir():
        raise LoupeError(f"there is no folder {file.parent}: make it first")
    picture, question = args.prompt_embeds
    view = common.assistant_of(args).encode(load_image(picture))
    regions = [batch.region(view, wanted, n) for n, wanted in enumerate(args.regions, 1)]
    embeds = view.assistant.language.whole(view.prompt_embeds(question, regions))
    embeds = embeds.cpu().contiguous()
    try:
        save_file({"prompt_embeds": embeds}, file)
    except (OSError, SafetensorError) as error:
        raise LoupeError(f"cannot write {file}: {error}") from None
    if args.json:
        common.print_json({
            "target": str(file), "sequence": embeds.shape[0], "hidden": embeds.shape[1],
            "dtype": str(embeds.dtype).removeprefix("torch."),
            "regions": [batch.described(region) for region in regions],
        })  # fmt: skip
    else:
        print(f"{file}: {embeds.shape[0]} x {embeds.shape[1]}, {embeds.dtype}")
    return 0
