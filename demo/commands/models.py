"""`loupe models`: what can be had, and what each needs."""

from __future__ import annotations

import argparse

from demo.commands import common

SAYS = "list the published models: size, licence, memory, what they suit"
EXAMPLES = """GB of weights. The bridge counts in float32; int8 and nf4 are of the language model's
linear layers alone. Leave about a tenth more for what is computed with them.

examples:
  loupe models
  loupe models --json
  loupe chat --model Salesforce/blip2-flan-t5-xl --dtype bf16 --segmenter facebook/sam-vit-base"""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="a JSON object for each; bytes")


def run(args: argparse.Namespace) -> int:
    from adapters.catalogue import rows

    found = rows()
    if args.json:
        for row in found:
            common.print_json(row)
        return 0
    wide = max(len(row["model"]) for row in found)
    print(f"{'model':{wide}}  params   bf16   int8    nf4  suits; licence")
    for row in found:
        sizes = (f"{row[kind] / 1e9:5.1f}" if row[kind] else "    -" for kind in
                 ("bf16", "int8", "nf4"))  # fmt: skip
        print(f"{row['model']:{wide}}  {row['parameters'] / 1e9:5.2f}B  {'  '.join(sizes)}  "
              f"{row['suits']}; {row['licence']}")  # fmt: skip
    return 0
