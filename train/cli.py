"""`loupe train`: a recipe in a TOML file, or the embedded default."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from qformer.console import Parser
from train.config import CONFIGS

DESCRIPTION = "Train a bridge between the parts a TOML file names, or tune one on your data."
EXAMPLES = """examples:
  loupe train my.toml                                  see docs/training.md for what it says
  loupe train my.toml --set loop.lr=1e-4 --set data.0.path=mine/data.jsonl
  loupe train my.toml --plan --gpu A100-40GB           what it will take, and whether it fits
  loupe train my.toml --resume auto                    go on after Ctrl-C, a kill or a full disk
  loupe train tune --set data.0.path=mine --output runs/mine
                                                       a shipped recipe, by name
  torchrun --nproc_per_node=8 -m train.cli my.toml     on eight devices
  loupe train my.toml --push me/my-model               upload it at the end, nothing frozen
  loupe train embedded                                 the embedded default, from nothing
  loupe train segmenter --help                         tune a segmenter on masks in COCO form

then
  loupe chat --model runs/mine/checkpoint"""


def main(argv: Sequence[str]) -> int:
    """Raises LoupeError for what does not fit; `loupe` prints it in one line."""
    if list(argv[:1]) == ["embedded"]:
        from train.embedded.cli import main as embedded

        return embedded(argv[1:])
    if list(argv[:1]) == ["segmenter"]:
        from train.segmenter.cli import main as tune

        return tune(argv[1:])
    parser = Parser(
        prog="loupe train", description=DESCRIPTION, epilog=EXAMPLES,
    )  # fmt: skip
    names = ", ".join([*shipped(), "embedded"])
    parser.add_argument("recipe", metavar="CONFIG", help=f"a TOML file, or one of: {names}")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="changes",
                        help="change a setting of the file; again for more")  # fmt: skip
    parser.add_argument("--output", metavar="FOLDER", help="the run's folder (the file's output)")
    parser.add_argument("--resume", choices=["auto"], help="go on from the newest whole state")
    parser.add_argument("--push", metavar="NAME/MODEL",
                        help="at the end, upload what was trained with a model card")  # fmt: skip
    parser.add_argument("--plan", action="store_true",
                        help="say what it will take, without touching data or weights")  # fmt: skip
    parser.add_argument("--gpu", metavar="NAME", help="with --plan: the one it must fit")
    parser.add_argument("--devices", metavar="N", type=int, default=1, help="with --plan")
    parser.add_argument("--json", action="store_true", help="with --plan: one JSON object")
    arguments = parser.parse_args(argv)
    if arguments.output:
        arguments.changes.append(f"output={arguments.output}")
    if arguments.plan:
        return tell_plan(arguments)
    resume = arguments.resume == "auto"
    return train(find(arguments.recipe), arguments.changes, resume, arguments.push)


def tell_plan(arguments: argparse.Namespace) -> int:
    import json

    from train.plan import Lengths, biggest, plan, refuse
    from train.recipe import read_recipe

    recipe = read_recipe(find(arguments.recipe), arguments.changes)
    found = plan(recipe, arguments.devices)
    print(json.dumps(found.record()) if arguments.json else "\n".join(found.lines()))
    refuse(recipe, found, arguments.gpu or biggest(), Lengths())
    return 0


def shipped() -> list[str]:
    """Names of the recipes that come with Loupe."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml") if path.stem != "embedded")


def find(name: str) -> Path:
    return CONFIGS / f"{name}.toml" if name in shipped() else Path(name)


def train(file: Path, changes: Sequence[str], resume: bool, repository: str | None = None) -> int:
    from qformer.contracts import LoupeError
    from train import states
    from train.card import check_shared
    from train.loop import Stopped, fit
    from train.parts import planned_parts
    from train.recipe import read_recipe
    from train.record import keep_record, what_changed
    from train.runs import Training

    recipe = read_recipe(file, changes)
    folder = Path(recipe.output)
    if repository:  # said before anything is learned
        check_shared(planned_parts(recipe), ("vision",) if recipe.vision_trains else ())
    again = " ".join(["loupe train", str(file), *(f"--set {c}" for c in changes), "--resume auto"])
    if states.steps_in(folder) and not resume:
        raise LoupeError(
            f"{folder} holds a run at step {states.steps_in(folder)[0]}: go on with --resume auto, "
            "or choose another --output"
        )
    main_process = int(os.environ.get("RANK", "0")) == 0

    def say(line: str) -> None:
        if main_process:
            print(line, file=sys.stderr, flush=True)

    changed = what_changed(folder, recipe) if resume else []
    for line in changed:
        say(f"this run was begun otherwise: {line}")
    training = Training(recipe, say)
    if main_process:
        keep_record(folder, recipe, file, changes)
    for line in training.describe():
        say(line)
    try:
        fit(training, recipe.loop, folder, say)
    except Stopped as stopped:
        say(f"saved at step {stopped.args[0]}; go on with: {again}")
        return 130
    if main_process:
        training.keep(folder / "checkpoint")
        for line in training.report():
            say(line)
        print(folder / "checkpoint")
        if repository:
            from train.card import push, write_card

            write_card(recipe, file, folder, folder / "upload")
            say(push(folder / "upload", repository))
    return 0


if __name__ == "__main__":
    from qformer.contracts import LoupeError as _Error

    try:
        sys.exit(main(sys.argv[1:]))
    except _Error as error:  # `loupe` prints it so too; torchrun starts this module itself
        print("loupe: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
