"""What maintainers measure: our export, engine, kernels and training beside the usual tools.

Not part of the wheel: run from a checkout, by `make bench-export`, `make bench-kernels`,
`make train-gpu-record` or `make benchmark`, or with
`PYTHONPATH=tools python -m pedsup_maintain...`.
"""

from __future__ import annotations

import os
from pathlib import Path


def child_environment() -> dict[str, str]:
    """The environment of a child process that runs a module of this package."""
    paths = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
