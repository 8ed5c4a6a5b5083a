"""Load GGUF files in llama.cpp, each in a process of its own, and say how that ended.

    python load_oracle.py            paths on standard input, one word per path on standard output

'runs': loaded, a context made and a few tokens decoded, as pedsup's engine does it;
'refused': llama.cpp said no; 'signal N': it crashed; 'hangs': no end after `SECONDS`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SECONDS = 30


def outcomes(paths: Iterable[Path]) -> list[str]:
    """The outcome for each file, in order."""
    paths = list(paths)
    done = subprocess.run(
        [sys.executable, __file__],
        input="\n".join(map(str, paths)), capture_output=True, text=True, check=True,
    )  # fmt: skip
    words = done.stdout.splitlines()
    assert len(words) == len(paths), done.stderr[-2000:]
    return words


def _run(path: str) -> int:
    from pedsup.engine.llama_cpp import bindings

    lib = bindings.load()
    params = lib.llama_model_default_params()
    params.n_gpu_layers, params.use_extra_bufts, params.lazy_mode = 0, False, 2
    model = lib.llama_model_load_from_file(path.encode(), params)
    if not model:
        return 3
    wanted = lib.llama_context_default_params()
    wanted.n_ctx, wanted.n_batch, wanted.n_ubatch = 64, 64, 32
    wanted.n_seq_max, wanted.n_threads, wanted.n_threads_batch = 1, 1, 1
    wanted.n_outputs_max, wanted.swa_full = 1, False
    context = lib.llama_init_from_model(model, wanted)
    if not context:
        return 3
    vocab = lib.llama_model_get_vocab(model)
    raw = "ab cd 12 kg\nñandú <turn|> 🫁".encode()
    tokens = (lib.llama_token * 128)()
    n = lib.llama_tokenize(vocab, raw, len(raw), tokens, 128, True, True)
    n = max(1, min(n, 40))  # more than a micro-batch
    for token in range(lib.llama_vocab_n_tokens(vocab)):
        lib.llama_vocab_get_attr(vocab, token)
    if lib.llama_decode(context, lib.llama_batch_get_one(tokens, n)):
        return 3
    for _ in range(3):
        one = (lib.llama_token * 1)(tokens[0])
        if lib.llama_decode(context, lib.llama_batch_get_one(one, 1)):
            return 3
        lib.llama_get_logits_ith(context, -1)
    return 0


def _main() -> None:
    from pedsup.engine.llama_cpp import bindings

    bindings.load()  # once, before the forks
    for path in sys.stdin.read().splitlines():
        child = os.fork()
        if child == 0:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1), os.dup2(null, 2)
            signal.alarm(SECONDS)
            code = 4
            try:
                code = _run(path)
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGALRM:
            print("hangs", flush=True)
        elif code < 0:
            print(f"signal {-code}", flush=True)
        else:
            print({0: "runs", 3: "refused"}.get(code, f"code {code}"), flush=True)


if __name__ == "__main__":
    _main()
