"""``python -m medseg.cli``, and the program ``medseg``."""

import sys

from medseg.cli import main
from medseg.cli._lean import leave

__all__ = ["program"]


def program() -> int:
    """Run the program; returns the exit status, where it has not ended the process."""
    status = main()
    leave(status)
    return status


if __name__ == "__main__":
    sys.exit(program())
