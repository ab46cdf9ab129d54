"""Run `monai.bundle run` in this process and kill it (SIGKILL) at a chosen moment.

Usage: kill_driver.py MOMENT -m monai.bundle run --config_file ...
MOMENT is ``none``, ``iteration:N`` (before the N-th optimiser step),
``during:NAME:N`` (the N-th write of a file is half done), ``after:NAME:N`` (the N-th file has just got its name).
"""

import os
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path

import torch

import medseg.runs.run as run


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str) -> None:
    kind, _, rest = moment.partition(":")
    seen: Counter[str] = Counter()
    if kind == "iteration":
        step = torch.optim.Adam.step

        def counted(self, *args, **kwargs):
            seen["step"] += 1
            if seen["step"] == int(rest):
                die()
            return step(self, *args, **kwargs)

        torch.optim.Adam.step = counted
    elif kind in ("during", "after"):
        name, _, number = rest.partition(":")
        write, save = Path.write_bytes, run.save_checkpoint

        def half(self, data):
            seen[self.name.split(".", 2)[-1]] += 1
            if seen[name] == int(number):
                write(self, bytes(data)[: len(data) // 2])
                die()
            return write(self, data)

        def then_die(state, path):
            save(state, path)
            seen[Path(path).name] += 1
            if seen[name] == int(number):
                die()

        if kind == "during":
            Path.write_bytes = half
        else:
            run.save_checkpoint = then_die


arm(sys.argv[1])
sys.argv = sys.argv[3:]  # after "-m": monai.bundle run ...
runpy.run_module("monai.bundle", run_name="__main__")
