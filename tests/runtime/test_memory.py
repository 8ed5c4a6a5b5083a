"""The memory estimate against what llama.cpp logs and what the kernel counts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import memory_probe, sized_models
from pedsup_testing.sized_models import (
    E2B,
    E4B,
    GEMMA3_270M,
    LLAMA_1B,
    MEDGEMMA_4B,
    QWEN2_1_5B,
    QWEN3_1_7B,
    SMALL_GEMMA,
    Sizes,
)

from pedsup.device.cores import cpu_features
from pedsup.engine.api import EngineConfig
from pedsup.engine.build_probe import library_build
from pedsup.engine.vector_units import usable
from pedsup.errors import BadFileError, ResourceError, UnsupportedError
from pedsup.gguf_file import ValueType, read_header
from pedsup.memory import (
    Available,
    Host,
    Room,
    available_memory,
    estimate,
    model_shape,
)
from pedsup.memory.estimate import kv_cache_bytes
from pedsup.run.memory_use import costs_context

MIB = 1 << 20


def probe(what: str, model: Path, **options: Any) -> dict[str, float]:
    """Run the probe in a process of its own: what a model leaves behind would spoil the next."""
    done = subprocess.run(
        [sys.executable, memory_probe.__file__, what, str(model), json.dumps(options)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, float] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="session")
def vocabulary(llama_cpp_source: Path) -> Path:
    return llama_cpp_source / "models" / "ggml-vocab-gemma-4.gguf"


@pytest.fixture(scope="session")
def sized(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A function from sizes to a model file without a tokenizer, written once."""
    folder = tmp_path_factory.mktemp("sized")
    made: dict[Sizes, Path] = {}

    def get(sizes: Sizes) -> Path:
        if sizes not in made:
            made[sizes] = sized_models.write(folder / f"{len(made)}.gguf", sizes, None)
        return made[sizes]

    return get


def close(estimated: float, real_mib: float, tolerance: float = 0.10) -> bool:
    return abs(estimated / MIB - real_mib) <= tolerance * real_mib


SHAPES = [
    pytest.param(E4B, id="E4B"),
    pytest.param(E2B, id="E2B"),
    pytest.param(SMALL_GEMMA, id="small-gemma"),
    pytest.param(LLAMA_1B, id="llama-1b"),
    pytest.param(MEDGEMMA_4B, id="medgemma-4b"),
    pytest.param(GEMMA3_270M, id="gemma3-270m"),
    pytest.param(QWEN2_1_5B, id="qwen2-1.5b"),
    pytest.param(QWEN3_1_7B, id="qwen3-1.7b"),
    pytest.param(Sizes(2, 256, 512, 16, 4, 128, n_vocab=8000), id="attention-heavy-llama"),
    pytest.param(Sizes(4, 256, 1024, 8, 8, 64, n_vocab=32000), id="no-grouped-heads"),
]


@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize(("n_ctx", "n_ubatch"), [(4096, 512), (1024, 128), (32768, 512)])
def test_the_estimate_is_what_llama_cpp_reports(
    sized: Any, sizes: Sizes, n_ctx: int, n_ubatch: int
) -> None:
    model = sized(sizes)
    real = probe("reported", model, n_ctx=n_ctx, n_ubatch=n_ubatch)
    config = EngineConfig(model, n_ctx=n_ctx, n_ubatch=n_ubatch)
    need = estimate(read_header(model), config)
    # The cache follows from the header exactly; llama.cpp prints two decimals.
    assert need.kv_cache / MIB == pytest.approx(real["kv_cache"], abs=0.02)
    assert close(need.compute, real["compute"]), (need.compute / MIB, real["compute"])
    assert need.output / MIB == pytest.approx(real["output"], abs=0.02)


@pytest.mark.parametrize("n_ctx", [512, 4096, 8192])
def test_the_estimate_for_smollm2(smollm2: Path, n_ctx: int) -> None:
    real = probe("reported", smollm2, n_ctx=n_ctx)
    need = estimate(read_header(smollm2), EngineConfig(smollm2, n_ctx=n_ctx))
    assert need.kv_cache / MIB == pytest.approx(real["kv_cache"], abs=0.02)
    assert close(need.compute, real["compute"])


@pytest.mark.slow
@pytest.mark.parametrize("n_ctx", [1024, 4096])
def test_resident_memory_of_smollm2(smollm2: Path, n_ctx: int) -> None:
    real = probe("measured", smollm2, n_ctx=n_ctx)
    need = estimate(read_header(smollm2), EngineConfig(smollm2, n_ctx=n_ctx))
    assert close(need.anonymous - need.program, real["RssAnon"]), (need, real)
    assert close(need.file_backed, real["RssFile"]), (need, real)


@pytest.mark.slow
def test_resident_memory_of_a_gemma4_leaves_the_per_layer_table_out(
    tmp_path: Path, vocabulary: Path
) -> None:
    model = sized_models.write(tmp_path / "m.gguf", SMALL_GEMMA, vocabulary)
    real = probe("measured", model, n_ctx=4096)
    need = estimate(read_header(model), EngineConfig(model, n_ctx=4096))
    assert need.table > 800 * MIB  # it would show
    assert close(need.anonymous - need.program, real["RssAnon"]), (need, real)
    assert close(need.file_backed, real["RssFile"]), (need, real)


@pytest.mark.parametrize("kind", ["Q4_K", "Q4_0", "Q6_K"])
def test_repacked_copies_are_those_that_llama_cpp_makes(sized: Any, kind: str) -> None:
    model = sized(replace(SMALL_GEMMA, n_layer=6, n_shared=0, head=64).with_kind(kind))
    real = probe("reported", model, n_ctx=512, extra_buffers=True)
    config = EngineConfig(model, n_ctx=512, extra_buffers=True)
    need = estimate(read_header(model), config, Host(usable(cpu_features(), library_build())))
    assert need.repacked / MIB == pytest.approx(real["repacked"], abs=0.05)


def test_amx_packs_blocks_larger(sized: Any) -> None:
    """88.24 MiB is what llama.cpp reports of its AMX buffer, built with all native flags."""
    model = sized(replace(SMALL_GEMMA, n_layer=6, n_shared=0, head=64).with_kind("Q4_K"))
    config = EngineConfig(model, n_ctx=512, extra_buffers=True)
    amx = frozenset({"avx2", "avx512f", "avx512_vnni", "amx_int8", "amx_tile"})
    for features, mib in ((amx, 88.24), (frozenset({"avx2"}), 85.85), (frozenset(), 0)):
        need = estimate(read_header(model), config, Host(features))
        assert need.repacked / MIB == pytest.approx(mib, abs=0.01)


def test_cache_sizes_by_hand(sized: Any) -> None:
    """E4B at 4096: 20 sliding layers of 1024 cells and 4 full ones, K and V in float16."""
    header = read_header(sized(E4B))
    config = EngineConfig(header.path, n_ctx=4096)
    sliding = 20 * (512 + 512) * 2 * 1024
    full = 4 * (1024 + 1024) * 2 * 4096
    assert kv_cache_bytes(model_shape(header), config) == sliding + full


def test_a_phone_gets_the_largest_context_that_fits(sized: Any) -> None:
    header = read_header(sized(E2B))
    config = EngineConfig(header.path)
    for mib in (1800, 2000, 3000):
        available = Available(mib * MIB, "a test")
        n_ctx = Room(header, available).largest_context(config)
        assert n_ctx is not None
        fits = estimate(header, replace(config, n_ctx=n_ctx))
        assert fits.total <= available.bytes
        if n_ctx < 131072:
            more = estimate(header, replace(config, n_ctx=n_ctx * 2))
            assert more.total > available.bytes


def test_the_context_that_was_asked_for_is_among_the_candidates(sized: Any) -> None:
    header = read_header(sized(E2B))
    config = EngineConfig(header.path, n_ctx=5120)
    room = Room(header, Available(estimate(header, config).total, "a test"))
    assert room.largest_context(config) == 5120
    assert room.largest_context(replace(config, n_ctx=4096)) == 4096


@pytest.mark.parametrize(
    ("without", "largest", "wanted", "costs"),
    [(8192, 8192, 8192, False), (131072, 12288, 8192, False), (8192, 6144, 8192, True),
     (4096, 4096, 8192, False), (512, None, 8192, True), (None, None, 8192, True)],
)  # fmt: skip
def test_what_a_projector_costs_counts_up_to_what_is_wanted(
    without: int | None, largest: int | None, wanted: int, costs: bool
) -> None:
    assert costs_context(without, largest, wanted) is costs


def test_what_cannot_fit_is_refused_with_the_next_smaller_option(sized: Any) -> None:
    header = read_header(sized(E2B))
    config = EngineConfig(header.path, n_ctx=65536)
    tight = Available(1700 * MIB, "the system")
    with pytest.raises(ResourceError) as caught:
        Room(header, tight).require(config)
    n_ctx = Room(header, tight).largest_context(config)
    assert f"--ctx {n_ctx}" in str(caught.value.remedy)
    Room(header, tight).require(replace(config, n_ctx=n_ctx or 0))  # and the option works


def test_weights_that_do_not_fit_can_be_paged_when_asked(sized: Any) -> None:
    header = read_header(sized(E4B))
    config = EngineConfig(header.path, n_ctx=1024)
    small = Available(1000 * MIB, "the system")
    assert Room(header, small).fit(config).verdict == "pages"
    with pytest.raises(ResourceError, match="memory") as caught:
        Room(header, small).require(config)
    assert "--allow-paging" in str(caught.value.remedy)
    assert Room(header, small).require(config, allow_paging=True).verdict == "pages"
    tiny = Available(100 * MIB, "the system")
    with pytest.raises(ResourceError) as refused:
        Room(header, tiny).require(config, allow_paging=True)
    assert "smaller type or model" in str(refused.value.remedy)


def test_repack_off_is_offered_before_a_smaller_model(sized: Any) -> None:
    header = read_header(sized(E2B))
    config = EngineConfig(header.path, n_ctx=2048, extra_buffers=True)
    arm = frozenset({"asimd", "asimddp"})
    with pytest.raises(ResourceError) as caught:
        Room(header, Available(1700 * MIB, "the system"), Host(arm)).require(config)
    assert "--extra-buffers off" in str(caught.value.remedy)


# ---- bad headers ------------------------------------------------------------------------------


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "unheard-of")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedError, match="unheard-of") as caught:
        model_shape(read_header(tmp_path / "x.gguf"))
    assert caught.value.wanted is not None and "gemma4, llama" in caught.value.wanted


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("llama.block_count", 0),
        ("llama.block_count", 2**31),
        ("llama.attention.head_count", 0),
        ("llama.embedding_length", "wide"),
        ("llama.feed_forward_length", -5),
        ("llama.context_length", None),
    ],
)
def test_a_forged_size_is_an_error_and_no_number(
    smollm2: Path, field: str, value: int | str | None
) -> None:
    header = read_header(smollm2)
    metadata, types = {**header.metadata, field: value}, dict(header.value_types)
    if value is None:
        del metadata[field]
    if isinstance(value, str):
        types[field] = ValueType.STRING
    with pytest.raises(BadFileError, match=field.replace(".", r"\.")):
        model_shape(replace(header, metadata=metadata, value_types=types))


# ---- available memory -------------------------------------------------------------------------


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


MEMINFO = "MemTotal:  8000000 kB\nMemFree:  100000 kB\nMemAvailable:  3000000 kB\nCached: 50 kB\n"


def test_memory_of_the_system_alone(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/meminfo": MEMINFO})
    assert available_memory(root) == Available(3000000 * 1024, "the system")


def test_an_old_kernel_without_memavailable(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/meminfo": "MemFree: 100 kB\nCached: 50 kB\n"})
    assert available_memory(root) == Available(150 * 1024, "the system")


def test_nothing_readable_sets_no_bound(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None


def test_a_cgroup_v2_limit_of_an_ancestor_binds(tmp_path: Path) -> None:
    group = "sys/fs/cgroup"
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/app/worker\n",
            f"{group}/app/worker/memory.max": "max\n",
            f"{group}/app/worker/memory.current": "5000\n",
            f"{group}/app/memory.max": "2000000\n",
            f"{group}/app/memory.current": "1500000\n",
            f"{group}/app/memory.stat": "anon 1000000\ninactive_file 300000\nactive_file 100000\n",
        },
    )
    found = available_memory(root)
    assert found is not None
    assert found.bytes == 2000000 - 1500000 + 400000
    assert "/app" in found.source


def test_a_cgroup_v1_limit(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/phone"
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "9:cpu,cpuacct:/x\n4:memory:/phone\n",
            f"{group}/memory.limit_in_bytes": "700000000\n",
            f"{group}/memory.usage_in_bytes": "100000000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
        },
    )
    found = available_memory(root)
    assert found is not None
    assert found.bytes == 600000000
