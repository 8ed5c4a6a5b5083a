"""A model larger than memory: what is said, what is refused, and the bytes that are really read."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pedsup_testing import paging_probe, sized_models
from pedsup_testing.cgroups import drop_from_cache, memory_limit
from pedsup_testing.near_ties import GREEDY, require_same_text
from pedsup_testing.sized_models import SMALL_GEMMA, Sizes

from pedsup.device.storage import read_rate
from pedsup.engine.api import DraftConfig, EngineConfig
from pedsup.engine.llama_cpp.streaming import plan_stream
from pedsup.errors import ResourceError
from pedsup.gguf_file import GGUFHeader, read_header
from pedsup.gguf_file.shape import PER_LAYER_TABLE
from pedsup.memory import Available, Host, Room, estimate
from pedsup.memory.paging import CROWDED, LEAST_PAGES, PATIENCE, SLACK, paging

MIB = 1 << 20
PAGED = Sizes(16, 1024, 3072, 16, 4, 64, n_vocab=49152, kind=sized_models.Kind.Q8_0)


def write_real(path: Path, sizes: Sizes, vocabulary: Path) -> Path:
    """A sized model with random weights on the disk: holes would be read from nowhere."""
    sized_models.write(path, sizes, vocabulary)
    header = read_header(path)
    blocks = np.random.default_rng(7).integers(0, 256, (1 << 15, 34), dtype=np.uint8)
    blocks[:, :2] = np.frombuffer(np.float16(1e-3).tobytes(), np.uint8)  # the scale of a block
    pattern = blocks.tobytes()
    with path.open("r+b") as file:
        for tensor in header.tensors.values():
            file.seek(header.data_offset + tensor.offset)
            if tensor.type.name == "F32":
                file.write(np.ones(tensor.n_elements, np.float32).tobytes())
                continue
            whole, rest = divmod(tensor.n_bytes, len(pattern))
            for _ in range(whole):
                file.write(pattern)
            file.write(pattern[:rest])
        file.flush()
        os.fsync(file.fileno())
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    """About 204 MB of layers and 53 MB of embedding, on the disk."""
    return write_real(tmp_path_factory.mktemp("paged") / "m.gguf", PAGED, smollm2)


def run_probe(tmp_path: Path, model: Path, engine: str = "inprocess", **job: Any) -> dict[str, Any]:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"model": str(model), "engine": engine, **job}))
    done = subprocess.run(
        [sys.executable, paging_probe.__file__, str(path)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# ---- the policy -----------------------------------------------------------------------------


def test_the_cost_by_hand(model: Path) -> None:
    need = estimate(read_header(model), EngineConfig(model, n_ctx=512))
    available = need.total - 30 * MIB
    server = paging(need, available, streamed=False, rate=1e8)
    own = paging(need, available, streamed=True, rate=1e8)
    assert server is not None and own is not None
    assert server.missing == own.missing == 30 * MIB
    assert server.resident == available - need.anonymous - SLACK
    again = max(1.0, CROWDED / (available - need.anonymous))
    assert server.read_per_token == int(need.weights * again)
    assert own.read_per_token == int((30 * MIB + SLACK + 2 * need.largest_layer) * again)
    assert own.speed == pytest.approx(1e8 / own.read_per_token)
    assert "30.00 MiB of the weights do not fit" in own.text
    assert "at 100 MB/s" in own.text


def test_where_paging_begins_and_ends(model: Path) -> None:
    need = estimate(read_header(model), EngineConfig(model, n_ctx=512))
    assert paging(need, need.total, streamed=True, rate=None) is None
    assert paging(need, need.total - 1, streamed=True, rate=None) is not None
    least = need.anonymous + LEAST_PAGES
    assert paging(need, least, streamed=True, rate=None) is not None
    assert paging(need, least - 1, streamed=True, rate=None) is None
    assert paging(replace(need, mapped=False), least, streamed=True, rate=None) is None


def test_a_bearable_speed_starts_by_itself_and_a_slow_one_only_when_asked(model: Path) -> None:
    header = read_header(model)
    config = EngineConfig(model, n_ctx=512)
    need = estimate(header, replace(config, n_ubatch=128))
    tight = Available(need.total - 40 * MIB, "the phone")
    cost = paging(estimate(header, config), tight.bytes, streamed=True, rate=1.0)
    assert cost is not None
    enough = PATIENCE * cost.read_per_token
    fit = Room(header, tight).require(config, rate=enough * 1.01)
    assert fit.verdict == "pages" and fit.paging is not None and fit.paging.bearable
    with pytest.raises(ResourceError, match="read from storage again") as caught:
        Room(header, tight).require(config, rate=enough * 0.99)
    assert "--allow-paging" in str(caught.value.remedy)
    assert Room(header, tight).require(config, allow_paging=True, rate=enough * 0.99).paging
    # An unknown speed is no bearable one; the server's is slower than ours.
    with pytest.raises(ResourceError, match="could not be measured"):
        Room(header, tight).require(config)
    with pytest.raises(ResourceError):
        Room(header, tight, Host(server=True)).require(config, rate=enough * 1.01)
    # Memory that must be kept is never paged.
    least = Available(need.anonymous + LEAST_PAGES - MIB, "the phone")
    with pytest.raises(ResourceError) as refused:
        Room(header, least).require(config, allow_paging=True, rate=1e12)
    assert "slowly" not in str(refused.value.remedy)
    # One that would be small enough with a smaller batch is told so.
    nearly = Available(need.anonymous + LEAST_PAGES, "the phone")
    with pytest.raises(ResourceError) as refused:
        Room(header, nearly).require(config, allow_paging=True, rate=1e12)
    assert "--ctx 512 --ubatch 128 --allow-paging" in str(refused.value.remedy)


def test_a_smaller_context_that_fits_comes_before_paging(model: Path) -> None:
    header = read_header(model)
    config = EngineConfig(model, n_ctx=2048)
    room = Available(estimate(header, replace(config, n_ctx=1024)).total, "the phone")
    with pytest.raises(ResourceError) as caught:
        Room(header, room).require(config, rate=1e12)
    assert "--ctx 1024" in str(caught.value.remedy)
    assert Room(header, room).require(config, rate=1e12, allow_paging=True).verdict == "pages"


# ---- the split ------------------------------------------------------------------------------


def layer_bytes(header: GGUFHeader, layer: int) -> int:
    return sum(t.n_bytes for t in header.tensors.values() if t.name.startswith(f"blk.{layer}."))


@pytest.mark.parametrize("missing", [0, 1, 7, 30, 60, 1000])
def test_the_split_keeps_what_fits(model: Path, missing: int) -> None:
    header = read_header(model)
    weights = sum(t.n_bytes for t in header.tensors.values())
    window = 2 * layer_bytes(header, 0)
    plan = plan_stream(header, weights + window - missing * MIB, PER_LAYER_TABLE)
    kept = [i for i in range(PAGED.n_layer) if i not in plan.layers]
    let_go = sum(layer_bytes(header, i) for i in plan.layers)
    if missing == 0:
        assert not plan.layers
    elif missing == 1000:
        assert not kept
    else:
        # No layer more than needed.
        assert missing * MIB <= let_go < missing * MIB + layer_bytes(header, 0)
    # Whole pages of these layers and nothing else.
    for layer, ranges in plan.layers.items():
        own = [t for t in header.tensors.values() if t.name.startswith(f"blk.{layer}.")]
        first = min(header.data_offset + t.offset for t in own)
        last = max(header.data_offset + t.offset + t.n_bytes for t in own)
        for begin, end in ranges:
            assert begin % mmap.PAGESIZE == end % mmap.PAGESIZE == 0
            assert first <= begin < end <= last
        assert sum(e - b for b, e in ranges) > layer_bytes(header, layer) - 4 * mmap.PAGESIZE


def test_the_split_never_touches_the_per_layer_table(tmp_path: Path) -> None:
    path = sized_models.write(tmp_path / "g.gguf", SMALL_GEMMA, None)
    header = read_header(path)
    plan = plan_stream(header, 0, PER_LAYER_TABLE)
    assert len(plan.layers) == SMALL_GEMMA.n_layer
    table = header.tensors[PER_LAYER_TABLE]
    begin = header.data_offset + table.offset
    for ranges in plan.layers.values():
        assert all(e <= begin or b >= begin + table.n_bytes for b, e in ranges)
    # Its size does not count either: with room for the rest nothing is let go.
    rest = sum(t.n_bytes for t in header.tensors.values()) - table.n_bytes
    largest = max(layer_bytes(header, i) for i in range(SMALL_GEMMA.n_layer))
    assert not plan_stream(header, rest + 2 * largest, PER_LAYER_TABLE).layers
    assert plan_stream(header, rest + 2 * largest - 1, PER_LAYER_TABLE).layers


def test_a_draft_model_s_pages_come_off_what_may_stay(model: Path, smollm2: Path) -> None:
    header = read_header(model)
    config = EngineConfig(model, n_ctx=512)
    alone = estimate(header, config)
    both = estimate(header, replace(config, draft=DraftConfig("model", model=smollm2)))
    weights = sum(t.n_bytes for t in read_header(smollm2).tensors.values())
    assert both.draft_weights == weights > 90 * MIB
    free = alone.total + both.draft - 20 * MIB
    cost = paging(both, free, streamed=True, rate=None)
    assert cost is not None
    # As if the model were alone with that much less memory.
    less = paging(
        alone, free - both.anonymous + alone.anonymous - weights, streamed=True, rate=None
    )
    assert less is not None
    assert (cost.resident, cost.missing) == (less.resident, less.missing)
    assert plan_stream(header, cost.resident, PER_LAYER_TABLE).n_bytes >= cost.missing
    # Left to the kernel, a token reads both again.
    kernel = paging(both, free, streamed=False, rate=None)
    assert kernel is not None
    assert kernel.read_per_token >= both.weights + weights


@pytest.mark.slow
def test_layers_that_are_let_go_change_no_text(smollm2: Path) -> None:
    from pedsup.engine.llama_cpp.inprocess import InProcessEngine

    plain = EngineConfig(smollm2, n_ctx=512, n_threads=1, n_threads_batch=1)
    both = replace(plain, resident=70 * MIB)
    with closing(InProcessEngine(plain)) as one, closing(InProcessEngine(both)) as other:
        streamer = other._loaded.streamer
        assert streamer is not None and len(streamer._plan.layers) > 5
        gone: list[int] = []
        let_go = streamer._let_go
        streamer._let_go = lambda n: (gone.append(n), let_go(n))  # type: ignore[assignment]
        prompt = one.tokenize("Fever of 39.1 C, 14.2 kg. " * 6, parse_special=False)
        texts = [
            [t.id for t in engine.generate(prompt, GREEDY, max_tokens=24)]
            for engine in (one, other)
        ]
        require_same_text(one, prompt, texts[1], texts[0])
        # A pass over the weights per token lets each planned layer go once.
        assert set(gone) == set(streamer._plan.layers)
        assert abs(len(gone) / len(set(gone)) - len(texts[1])) <= 1


def test_the_storage_s_rate(model: Path, tmp_path: Path) -> None:
    rate = read_rate(model, seconds=0.05)
    assert rate is not None and rate > 1e6
    small = tmp_path / "small"
    small.write_bytes(b"x" * 1000)
    assert read_rate(small) is None
    assert read_rate(tmp_path / "none") is None


# ---- for real -------------------------------------------------------------------------------


@pytest.mark.slow
def test_layers_let_go_by_plan_spare_the_storage(model: Path, tmp_path: Path) -> None:
    """Bytes per token under one limit, with the kernel's choice and with ours; same tokens."""
    header = read_header(model)
    free = run_probe(tmp_path, model, steps=4, greedy=3, prompt=8)
    need = estimate(header, EngineConfig(model, n_ctx=512))
    # What is there for mapped pages, beside the memory that this process was seen to keep.
    room = 215 * MIB
    exact = replace(need, program=0, vocabulary=0, checkpoints=0, kv_cache=0, output=0,
                    compute=free["RssAnon"])  # fmt: skip
    cost = paging(exact, free["RssAnon"] + room, streamed=True, rate=None)
    assert cost is not None and cost.resident == room - SLACK

    def limited(resident: int | None) -> dict[str, Any]:
        drop_from_cache(model)
        with memory_limit(free["RssAnon"] + room) as group:
            return run_probe(
                tmp_path,
                model,
                procs=group.procs,
                steps=4,
                greedy=3,
                prompt=8,
                config={"resident": resident},
            )

    left_alone, ours = limited(None), limited(cost.resident)
    # Ours is the same for each token; the kernel's varies between all weights and about as many.
    planned = ours["per_token"][1:]
    assert max(planned) - min(planned) < 0.1 * max(planned), ours
    assert cost.missing < max(planned) <= 1.05 * cost.read_per_token, (ours, cost)
    kernel = left_alone["per_token"]
    assert sum(kernel) > 1.25 * sum(ours["per_token"]), (left_alone, ours)
    assert max(kernel) <= 1.2 * need.weights
    assert free["tokens"] == left_alone["tokens"] == ours["tokens"]


@pytest.mark.slow
def test_a_question_under_a_limit_below_the_file_says_what_it_costs(
    model: Path, tmp_path: Path
) -> None:
    drop_from_cache(model)
    need = estimate(read_header(model), EngineConfig(model, n_ctx=512, n_batch=64, n_ubatch=64))
    homes = {f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("DATA", "CONFIG", "CACHE")}
    env = {**os.environ, "PEDSUP_ACCEPT_INTENDED_USE": "1", **homes}
    options = ["--ctx", "512", "--ubatch", "64", "--batch", "64", "--temp", "0", "--engine",
               "inprocess", "--threads", "2", "--extra-buffers", "off"]  # fmt: skip
    join = ("import os, sys\nfor f in sys.argv[2:2 + int(sys.argv[1])]: "
            "open(f, 'w').write(str(os.getpid()))\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'pedsup', "
            "*sys.argv[2 + int(sys.argv[1]):]])")  # fmt: skip

    def run(procs: tuple[str, ...], *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", join, str(len(procs)), *procs, str(model), *options, *more],
            stdin=subprocess.DEVNULL, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip

    free = run((), "-p", "Name three fruits.", "--max-tokens", "3")
    assert free.returncode == 0, free.stderr
    drop_from_cache(model)
    limit = model.stat().st_size - 20 * MIB
    assert need.anonymous + LEAST_PAGES < limit < need.total
    with memory_limit(limit) as group:
        checked = run(group.procs, "--check", "--json")
        document = json.loads(checked.stdout)
        assert document["verdict"] == "pages"
        assert document["paging"]["read_per_token"] >= document["paging"]["missing"] > 10 * MIB
        assert document["paging"]["rate"] > 0
        allowed = run(group.procs, "-p", "Name three fruits.", "--max-tokens", "3",
                      "--allow-paging")  # fmt: skip
    assert allowed.returncode == 0, allowed.stderr
    assert allowed.stdout == free.stdout
    assert "are read from storage again for each token" in allowed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["inprocess", "server"])
def test_the_per_layer_table_stays_cold(
    engine: str, tmp_path: Path, llama_cpp_source: Path, native_tool: Any, monkeypatch: Any
) -> None:
    """After a prompt and decoding: by smaps in the process, by mincore in the page cache."""
    if engine == "server":
        monkeypatch.setenv("PEDSUP_LLAMA_SERVER", str(native_tool("llama-server")))
    vocabulary = llama_cpp_source / "models" / "ggml-vocab-gemma-4.gguf"
    model = sized_models.write(tmp_path / "g.gguf", SMALL_GEMMA, vocabulary)
    header = read_header(model)
    table = header.tensors[PER_LAYER_TABLE]
    begin, end = (
        header.data_offset + table.offset,
        header.data_offset + table.offset + table.n_bytes,
    )
    assert table.n_bytes > 800 * MIB
    found = run_probe(tmp_path, model, engine, prompt=400, steps=2, greedy=12)
    config = EngineConfig(model, n_ctx=512, n_threads=2, n_threads_batch=2)
    need = estimate(header, config, Host(server=engine == "server"))

    cold = [
        rss for first, last, rss in found["spans"] if begin - 4096 <= first and last <= end + 4096
    ]
    assert cold, f"the table has no mapping of its own: {found['spans']}"
    # Each token reads one row, in pages; a row of 12 x 256 values in Q8_0 has 3264 bytes.
    assert sum(cold) < 430 * 4 * 4096
    warm = sum(rss for _, _, rss in found["spans"]) - sum(cold)
    assert warm > 0.9 * need.file_backed
    assert found["RssFile"] - need.program < 1.1 * need.file_backed
    in_cache = cached_bytes(model, begin, end)
    assert in_cache < 0.1 * table.n_bytes, in_cache
    assert need.table == table.n_bytes
    assert need.total < need.anonymous + need.file_backed + 1


def cached_bytes(path: Path, begin: int, end: int) -> int:
    """Bytes of a file's range that lie in the page cache, by mincore(2)."""
    first = begin // mmap.PAGESIZE * mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int,
                          ctypes.c_int, ctypes.c_long]  # fmt: skip
    fd = os.open(path, os.O_RDONLY)
    address = libc.mmap(None, end - first, 1, 1, fd, first)
    pages = (ctypes.c_ubyte * -(-(end - first) // mmap.PAGESIZE))()
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(end - first), pages) == 0
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(end - first))
    os.close(fd)
    return sum(page & 1 for page in pages) * mmap.PAGESIZE
