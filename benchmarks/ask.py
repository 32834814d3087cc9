"""What the caches of a View and a Conversation save, on a whole assistant.

Each comparison checks first that both ways give the same answer.
"""

from __future__ import annotations

import argparse

import torch

from adapters.build import build
from benchmarks.measure import compare
from qformer.assistant import Assistant
from qformer.conversation import Conversation
from qformer.view import View

QUESTION = "what is this?"
FOLLOW_UP = "and its colour?"
SIZE = (300, 400)  # (height, width) of the picture


def picture() -> torch.Tensor:
    """Coloured noise in blocks: what is on it does not matter to the time it takes."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (6, 8, 3), generator=generator, dtype=torch.uint8)
    return blocks.repeat_interleave(50, 0).repeat_interleave(50, 1)


def with_regions(view: View, count: int) -> list:
    """Upright bars side by side, each large enough to need no focal crop."""
    regions = []
    for index in range(count):
        region_mask = torch.zeros(SIZE, dtype=torch.bool)
        left = index * SIZE[1] // count
        region_mask[:, left : left + SIZE[1] // count] = True
        regions.append(view.region(region_mask))
    return regions


def started(assistant: Assistant, turns: int) -> Conversation:
    """A conversation of some turns, about a picture and one region."""
    view = assistant.encode(picture())
    conversation = view.converse()
    list(conversation.ask(QUESTION, with_regions(view, 1)))
    for _ in range(turns - 1):
        list(conversation.ask(FOLLOW_UP))
    return conversation


def follow_up(conversation: Conversation) -> str:
    return "".join(conversation.ask(FOLLOW_UP))


def without_prefix(conversation: Conversation) -> str:
    conversation.drop_caches()
    return follow_up(conversation)


def without_caches(conversation: Conversation) -> str:
    conversation.view.drop_caches()
    return without_prefix(conversation)


def at_once(view: View, count: int) -> list[torch.Tensor]:
    """The soft tokens of `count` regions from one pass of the Q-Former."""
    regions = with_regions(view, count)
    instruction = view.instruction(QUESTION, regions, None)
    tokens = view.soft_tokens({region.name: region for region in regions}, instruction)
    return list(tokens.values())


def one_by_one(view: View, count: int) -> list[torch.Tensor]:
    """The same, from a pass for each region."""
    regions = with_regions(view, count)
    instruction = view.instruction(QUESTION, regions, None)
    tokens = [view.soft_tokens({region.name: region}, instruction) for region in regions]
    return [value for one in tokens for value in one.values()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ask", description=__doc__)
    parser.add_argument("--model", default="paintings", help="a checkpoint folder (%(default)s)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--regions", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3, help="turns before the follow-up")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    assistant = build(arguments.model)
    repeats, count = arguments.repeats, arguments.regions

    def view() -> View:
        return assistant.encode(picture())

    pairs = zip(at_once(view(), count), one_by_one(view(), count), strict=True)
    difference = max(float((one - other).abs().max()) for one, other in pairs)
    print(
        compare(
            f"soft tokens of {count} regions, one by one / at once",
            lambda view: one_by_one(view, count),
            lambda view: at_once(view, count),
            repeats,
            prepare=view,
        )
    )
    print(f"    largest difference of the tokens: {difference:.1e}")

    def talk() -> Conversation:
        return started(assistant, arguments.turns)

    kept = follow_up(talk())
    for name, dropped in (
        ("the language model's prefix dropped", without_prefix),
        ("all caches dropped", without_caches),
    ):
        if dropped(talk()) != kept:
            raise RuntimeError(f"with {name} the answer is another")
        named = f"follow-up after {arguments.turns} turns, {name} / kept"
        print(compare(named, dropped, follow_up, repeats, prepare=talk))
    print("    the answers are the same")


if __name__ == "__main__":
    main()
