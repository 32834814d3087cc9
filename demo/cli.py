"""The `loupe` command. Nothing heavy is imported before a command runs: --help answers at once."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence

from demo.commands import COMMANDS
from qformer.console import Parser
from qformer.contracts import LoupeError, hint

EXAMPLES = """examples:
  loupe ask scene.png "how many stars are there?"
  loupe ask scene.png "what is this?" --point 120,80
  loupe ask scene.png "which is bigger?" --point 120,80 --point 300,210
  loupe segment scene.png --point 120,80 --not-point 140,95 --out mask.png
  loupe chat
  loupe doctor

`loupe COMMAND --help` says more about each."""
# train's commands, reached only when they are called: the module whose `main` runs each.
TRAIN = {
    "train": ("train.cli", "train a bridge, or the embedded default"),
    "data": ("train.data.inspect", "look at data before training on them"),
    "eval": ("train.eval.cli", "measure a model beside its baselines and peers"),
    "peers": ("train.eval.peers", "name the other models that loupe eval can ask"),
}


class Version(argparse.Action):
    """Looked up only when somebody asks: reading what is installed takes a while."""

    def __init__(self, option_strings, dest, **named):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **named)

    def __call__(self, parser, namespace, values, option_string=None):
        from importlib.metadata import version

        print(f"loupe {version('loupe-assistant')}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="loupe",
        description="Point at things in a picture and ask about them.",
        epilog=EXAMPLES,
    )
    top.add_argument("--version", action=Version, help="say which Loupe this is, and end")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name, help=module.SAYS, description=module.SAYS[0].upper() + module.SAYS[1:] + ".",
            epilog=module.EXAMPLES,
        )  # fmt: skip
        command.set_defaults(command=name, regions=[])
        module.arguments(command)
    for name, (_, says) in TRAIN.items():
        commands.add_parser(name, help=f"{says}: see loupe {name} --help", add_help=False)
    return top


def parse(words: list[str]) -> argparse.Namespace:
    """The command line; IMAGE and QUESTION may stand anywhere among the options."""
    for place in range(len(words) - 1, 0, -1):  # "--point -3,5": not an option of that name
        option, value = words[place - 1 : place + 1]
        if option in ("--point", "--not-point", "--box") and re.match(r"-[\d.]", value):
            words[place - 1 : place + 1] = [f"{option}={value}"]
    top = parser()
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        top.error(f"there is no command {words[0]!r}; {hint(words[0], [*COMMANDS, *TRAIN])}")
    args, left = top.parse_known_args(words)
    for name in ("image", "question"):  # argparse fills these only where they stand together
        if left and not left[0].startswith("-") and getattr(args, name, "") is None:
            setattr(args, name, left.pop(0))
    if left:
        top.error(f"unknown: {' '.join(left)}")
    return args


def run_train(words: Sequence[str]) -> int:
    module, _ = TRAIN[words[0]]
    try:
        main = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("accelerate", "peft"):
            hint = f'training needs {error.name}: pip install "loupe-assistant[train]"'
            print(f"loupe: {hint}", file=sys.stderr)
            return 2
        raise
    return main(words[1:]) or 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 2 with one line on standard error for what the user can put right."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = None if words and words[0] in TRAIN else parse(words)
    try:
        return run_train(words) if args is None else COMMANDS[args.command].run(args)
    except LoupeError as error:
        print("loupe: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
