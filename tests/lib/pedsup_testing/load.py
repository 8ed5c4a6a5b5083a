"""Many clients at once: each answer must be its own, and the server must not grow."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from pedsup_testing.served import Served

TOKENS = 6
WORDS = (
    "apple", "river", "seven", "music", "doctor", "winter", "purple", "bread", "tiger", "window",
)  # fmt: skip


@dataclass
class Report:
    """What a load run came to."""

    answers: int = 0
    refused: int = 0
    """Replies 429: the queue was full, and the client came back later."""
    wrong: list[str] = field(default_factory=list)
    rss_before_kib: int = 0
    rss_half_kib: int = 0
    rss_after_kib: int = 0
    threads_before: int = 0
    threads_after: int = 0
    seconds: float = 0.0


def body_for(word: str, *, stream: bool) -> bytes:
    document = {
        "model": "pedsup", "temperature": 0, "max_tokens": TOKENS, "stream": stream,
        "messages": [{"role": "user", "content": f"{word} is the word. Write a sentence with it."}],
    }  # fmt: skip
    return json.dumps(document).encode()


def answer_of(raw: bytes, *, stream: bool) -> str:
    if not stream:
        return str(json.loads(raw)["choices"][0]["message"]["content"])
    data = [line[6:] for line in raw.splitlines() if line.startswith(b"data: ")]
    assert data[-1] == b"[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in data[:-1]]
    return "".join(delta.get("content") or "" for delta in deltas)


def ask(server: Served, word: str, *, stream: bool) -> tuple[int, str, float]:
    """Status, answer, and the seconds after which to ask again."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/v1/chat/completions", body_for(word, stream=stream), headers)
        response = connection.getresponse()
        raw = response.read()
    finally:
        connection.close()
    if response.status != 200:
        return response.status, "", float(response.getheader("Retry-After") or 1)
    return 200, answer_of(raw, stream=stream), 0.0


def serial(server: Served) -> dict[str, frozenset[str]]:
    """The greedy answers to each word, after another word and after itself.

    One text unless two tokens are nearly as likely: a prompt in the cache has its last token read
    alone, and that rounds otherwise than in a batch.
    """
    return {word: frozenset(ask(server, word, stream=False)[1] for _ in range(2)) for word in WORDS}


def hammer(
    server: Served, wanted: dict[str, frozenset[str]], *, clients: int, seconds: float
) -> Report:
    """`clients` threads ask until the time is over; every tenth leaves in the middle of a reply."""
    report, lock = Report(), threading.Lock()
    report.rss_before_kib, report.threads_before = server.rss_kib(), n_threads(server)
    started = time.monotonic()
    end = started + seconds

    def client(number: int) -> None:
        n = number
        while time.monotonic() < end:
            word, n = WORDS[n % len(WORDS)], n + 1
            if n % 10 == 0:
                leave(server, word)
                continue
            status, answer, wait = ask(server, word, stream=n % 2 == 0)
            with lock:
                if status == 429:
                    report.refused += 1
                elif status != 200:
                    report.wrong.append(f"{word}: status {status}")
                elif answer not in wanted[word]:
                    report.wrong.append(f"{word}: {answer!r} is none of {wanted[word]}")
                else:
                    report.answers += 1
            # Half of what the server asks for: it must stand impatient clients.
            time.sleep(min(wait / 2, max(0.0, end - time.monotonic())))

    def guarded(number: int) -> None:
        try:
            client(number)
        except Exception as error:
            with lock:
                report.wrong.append(f"client {number}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 2)
    report.rss_half_kib = server.rss_kib()
    for thread in threads:
        thread.join()
    report.seconds = time.monotonic() - started
    time.sleep(1.5)
    report.rss_after_kib, report.threads_after = server.rss_kib(), n_threads(server)
    return report


def leave(server: Served, word: str) -> None:
    """Ask, and go away at once."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body_for(word, stream=True), headers)
    time.sleep(0.05)
    connection.close()


def n_threads(server: Served) -> int:
    """Threads of the server's process."""
    with open(f"/proc/{server.process.pid}/status") as file:  # noqa: PTH123 - not a real file
        return int(next(line for line in file if line.startswith("Threads")).split()[1])


def summary(report: Report) -> dict[str, Any]:
    """For printing."""
    return {name: value for name, value in vars(report).items() if name != "wrong"}
