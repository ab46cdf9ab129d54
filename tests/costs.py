"""A device whose costs are known beforehand: what plans are tested with in place of measuring a real one."""

from collections.abc import Sequence
from typing import Any

import torch

from medseg.studies import complexity
from medseg.studies.measures import StepSettings

PARAMETERS = 1000  # of every network
PACE = 1e-10  # seconds of a multiply-add, forward and backward


class Device:
    """A step takes as long as it has operations, and memory as it has channels and voxels."""

    def __init__(self) -> None:
        self.measured: list[tuple[int, tuple[int, ...]]] = []
        self.steps: set[StepSettings] = set()
        self.fails_above = float("inf")
        self.a_weight = 0.0  # seconds that a step takes for each learned value
        self.least = 0.0  # seconds that any step takes
        self.slower: dict[int, float] = {}  # how much longer an operation takes, by channels of the finest level
        self.seconds: dict[tuple[int, tuple[int, ...]], float] = {}  # of steps that are known, by channels and patch
        self._count = complexity.measure

    def measure(self, rows: Sequence[Any], measures: Sequence[str], **options: Any) -> dict[str, Any]:
        if "training" not in measures:
            return self._count(rows, measures)
        row, batch = rows[0], options["batch_size"]
        step = options["step"]
        self.steps.add(step)
        counted = self._count(rows, ("macs", "parameters"))["rows"][0]
        macs = counted["macs"]
        base = row.kwargs.get("channels", [0])[0]
        self.measured.append((base, row.size))
        if base > self.fails_above:
            return {"rows": [{"errors": {"memory": "does not fit"}, "training": None, "memory_bytes": None}]}
        voxels = torch.tensor(row.size).prod().item()
        seconds = PACE * macs * batch * self.slower.get(base, 1) + self.least
        seconds += self.a_weight * counted["parameters"]
        seconds = self.seconds.get((base, tuple(row.size)), seconds)
        held = {"errors": {}, "training": {"training": batch / seconds}, "memory_bytes": 80 * base * voxels}
        return {"rows": [held | {"parameters": PARAMETERS}]}
