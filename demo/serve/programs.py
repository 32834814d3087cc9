"""All that programs call, put together once the model is there."""

from __future__ import annotations

from collections.abc import Callable

from demo.serve.api import Api, Desk
from demo.serve.doors import Doors
from demo.serve.limits import Limits
from demo.serve.mcp import Tools
from demo.serve.metrics import Metrics
from qformer.assistant import Assistant


class Programs:
    """Endpoints by name: models, retrieve, complete, tool."""

    def __init__(
        self,
        ready: Callable[[], Assistant | None],
        limits: Limits,
        metrics: Metrics,
        named: Callable[[], str],
    ):
        """ready: the assistant, or None while there is none. named: what programs call it."""
        self.doors, self.desk = Doors(ready, limits), Desk(limits, metrics)
        api = Api(self.doors, self.desk, named, metrics)
        self.models, self.retrieve, self.complete = api.models, api.retrieve, api.complete
        self.tool = Tools(self.doors, self.desk).answer
        for name, says, read in (
            ("loupe_working", "Programs' requests being answered.", lambda: self.desk.working),
            ("loupe_waiting", "... and waiting for their turn.", lambda: self.desk.waiting),
            ("loupe_pictures", "Pictures kept for programs.", lambda: len(self.doors.shelf)),
        ):
            metrics.reading(name, says, read)
