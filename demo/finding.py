"""All there is in a picture, found while others wait: in a thread, with progress and cancel."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

from torch import Tensor

from qformer.finding import as_answer
from qformer.proposals import Everything, Proposal
from qformer.regions import Region
from qformer.view import View

SPECK = 1 / 400  # of the picture: smaller holes and islands are cleaned away
BACKGROUND = 0.9  # of the picture: larger areas are no thing
GRID = 12  # clicks a side, on a CPU
FAR = 1.0  # nats a token; on the examples 0 for what is there, 1.4 and more for what is not


def search(
    view: View, stop: threading.Event, report: Callable[[int, int], None]
) -> Generator[None, None, list[Proposal]]:
    """The segmenter's proposals, best first; yields whenever it has got on.

    report: told (clicks done, clicks in all). Raises StoppedError once `stop` is set.
    """
    steps: queue.Queue[Any] = queue.Queue()
    pixels = view.size[0] * view.size[1]
    settings = Everything(
        points_per_side=GRID if view.assistant.device.type == "cpu" else None,
        min_mask_region_area=round(pixels * SPECK),
    )

    def work() -> None:
        try:
            steps.put(view.everything(settings, lambda *step: steps.put(step), stop.is_set))
        except BaseException as error:
            steps.put(error)

    threading.Thread(target=work, daemon=True).start()
    report(0, 1)
    while True:
        yield
        step = steps.get()
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, list):
            found = [one for one in step if one.area < BACKGROUND * pixels]
            return sorted(found, key=lambda one: -one.score)
        report(*step)


def instead(view: View, region_mask: Tensor, words: str) -> str | None:
    """What the model calls an area, where that is likelier by far than the words are."""
    asked = next(iter(view.assistant.config.suggestions.region), None)
    if asked is None:
        return None
    region = Region(region_mask, "region 1")
    called = view.ask(asked, [region])
    if not called.strip():
        return None
    own, said = (view.log_likelihood(asked, [region], one) for one in (called, as_answer(words)))
    return called if own - said > FAR else None


def without_twins(found: Sequence[Proposal], alike: float = 0.7) -> list[Proposal]:
    """Keep the first of those whose IoU is above `alike`; parts and wholes stay."""
    return _apart(found, lambda shared, one, other: shared > alike * (one + other - shared))


def distinct(found: Sequence[Proposal], shares: float = 0.5) -> list[Proposal]:
    """Keep the first of those that share more than `shares` of the smaller: part or whole."""
    return _apart(found, lambda shared, one, other: shared > shares * min(one, other))


def _apart(found: Sequence[Proposal], same: Callable[[int, int, int], bool]) -> list[Proposal]:
    kept: list[tuple[Proposal, Any]] = []
    for proposal in found:
        area = proposal.region_mask
        if not any(same(int((area & other).sum()), proposal.area, one.area) for one, other in kept):
            kept.append((proposal, area))
    return [proposal for proposal, _ in kept]
