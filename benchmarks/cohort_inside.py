"""medseg's side of `benchmarks.cohort` in one process: a cohort from files to masks, and the bare forwards of it."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cohort_parts import BATCH
from medseg.inferers.memory_format import to_memory_format
from medseg.prediction.model import load
from medseg.prediction.predict import predict


def recorded(network: torch.nn.Module, work: Callable[[], Any]) -> list[Tensor]:
    """Return the batches that a network of this class gets while something is done."""
    kind, batches = type(network), list[Tensor]()
    forward = kind.forward

    def recording(self: Any, windows: Tensor) -> Any:
        batches.append(windows.clone())  # in its memory format
        return forward(self, windows)

    kind.forward = recording
    try:
        work()
    finally:
        kind.forward = forward
    return batches


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Return the seconds of some work by the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("output", type=Path, help="JSON of what was measured")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    folder = options.folder

    model = load(folder / "model.pt", device="cpu", trust=True)
    network = model.networks[0]

    def cohort() -> None:
        found = predict(model, folder / "images", options.masks, overwrite=True)
        if found.failures:
            raise SystemExit(f"failed: {found.failures}")

    windows = torch.cat(recorded(network, cohort))
    batches = [to_memory_format(batch) for batch in torch.split(windows, BATCH)]  # as full as the model asks for

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                network(batch)

    bare()
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "windows": len(windows)}
    found["bare"] = timed(bare)
    found["medseg"] = timed(cohort)
    options.output.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
