"""One process of a run that accelerate launched: `pedsup-train` with what a test must do to it.

PROCESS_IDS names a folder where each rank writes its process id, so that the test can kill one.
AS_GPUS tells accelerate that the CPU processes are GPUs, without which it leaves FSDP off.
CHUNK_BYTES sets the size of the loss's pieces. All that follows is the real thing: FSDP2 of torch,
over gloo.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def treat_processes_as_gpus() -> None:
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    original = PartialState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = init


def main() -> None:
    from pedsup_train.cli import main as run
    from pedsup_train.model import answer_loss

    if folder := os.environ.get("PROCESS_IDS"):
        Path(folder, os.environ["RANK"]).write_text(str(os.getpid()))
    if os.environ.get("AS_GPUS"):
        treat_processes_as_gpus()
    # A loss in several pieces, as a real vocabulary makes it.
    answer_loss.CHUNK_BYTES = int(os.environ.get("CHUNK_BYTES", answer_loss.CHUNK_BYTES))
    run()


if __name__ == "__main__":
    main()
