"""`loupe peers`: the other models that `loupe eval` can ask."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from qformer.console import Parser

EXAMPLES = """examples:
  loupe peers
  loupe eval vqav2 --data ... --peer blip2=FOLDER --peer vilt-vqa=FOLDER
  loupe eval coco-what --data coco --no-model --peer clip=openai/clip-vit-base-patch32
  loupe eval pope --data coco_pope_random.json --peer server=http://localhost:8000/v1#MODEL
"""
SERVER = {"class": "any server that speaks OpenAI's chat form", "ways": ["write"]}


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="loupe peers",
        description="The other models that loupe eval can ask: --peer KIND=FOLDER, a hub id, or"
        " server=ADDRESS. Ways: write answers, choose by likelihood, match texts with pictures,"
        " retrieve, name things.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    args = parser.parse_args(argv)
    from adapters.peers import PEERS
    from adapters.peers import SERVER as KIND

    known = {
        **{name: {"class": p.architecture, "ways": list(p.ways)} for name, p in PEERS.items()},
        KIND: SERVER,
    }
    if args.json:
        print(json.dumps(known))
        return 0
    for name, about in known.items():
        print(f"{name:13} {about['class']:40} {', '.join(about['ways'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
