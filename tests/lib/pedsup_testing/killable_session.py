"""Hold a session until killed: `python killable_session.py FOLDER`; says each step it has finished.

Turn n asks 'question n' and is answered by the words of `answer(n)`, in many pieces.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pedsup.session.history
from pedsup.errors import UsageError
from pedsup.session.files import find_session, new_session, resume_session


def answer(turn: int) -> str:
    """The whole answer of a turn."""
    return "".join(f"palabra {turn}.{i} ñandú 🫁 " for i in range(60))


def main(folder: Path) -> None:
    """Go on with the last session, or start one."""
    # Each piece is a write: more moments to be killed at.
    pedsup.session.history.PARTIAL_EVERY_S = 0.0
    print("start", flush=True)
    try:
        session = resume_session(find_session(folder, "last"))
    except UsageError:
        session = new_session(folder, {"model": {"digest": "d"}})
    print(f"open {len(session.exchanges)}", flush=True)
    while True:
        turn = len(session.exchanges) + 1
        session.ask(f"question {turn}")
        print(f"asked {turn}", flush=True)
        text = answer(turn)
        for at in range(0, len(text), 25):
            session.heard(answer=text[at : at + 25])
        session.finish(text, "", "end")
        print(f"done {turn}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
