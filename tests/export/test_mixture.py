"""The mixture against llama_model_quantize(dry_run=True), and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from pedsup_testing import made_gguf, quantize_oracle
from pedsup_testing.made_gguf import Made, stored_type

from pedsup.errors import UsageError
from pedsup.gguf_file.file_types import FILE_TYPES
from pedsup.gguf_file.ggml_types import BY_NAME
from pedsup.gguf_file.type_mixture import StoredTensor, llama_cpp_order
from pedsup.gguf_file.type_recipes import ModelShape
from pedsup_export.types.mixture import choose_types, file_type, parse_override

SHAPES = {
    "smollm2": lambda: made_gguf.llama(30, 576, (9, 3), 1536, 49152, tied=True),
    "gqa4": lambda: made_gguf.llama(32, 4096, (32, 8), 14336, 128256, tied=False),
    "mha": lambda: made_gguf.llama(22, 2048, (32, 32), 5632, 32000, tied=False),
    "70b": lambda: made_gguf.llama(80, 8192, (64, 8), 28672, 32000, tied=False),
    "odd": lambda: made_gguf.llama(5, 80, (5, 1), 112, 100, tied=True),
    "E4B": lambda: made_gguf.gemma4("E4B"),
    "E2B": lambda: made_gguf.gemma4("E2B"),
    "gemma3-4b": made_gguf.gemma3_4b,
    "qwen2-1.5b": made_gguf.qwen2_1_5b,
}


def model_shape(made: Made) -> ModelShape:
    return ModelShape(made.arch, made.n_layer, made.n_head, made.n_head_kv)


def stored(made: Made, outtype: str) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(shape, BY_NAME[stored_type(shape, name, outtype)])
        for name, shape in made.tensors.items()
    }


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory):
    """A function from a shape's name and an outtype to the made file, built once."""
    folder = tmp_path_factory.mktemp("shapes")
    files: dict[tuple[str, str], tuple[Made, Path]] = {}

    def get(shape: str, outtype: str = "BF16") -> tuple[Made, Path]:
        if (shape, outtype) not in files:
            made, path = SHAPES[shape](), folder / f"{shape}-{outtype}.gguf"
            made_gguf.write_sparse(path, made, outtype)
            files[shape, outtype] = made, path
        return files[shape, outtype]

    return get


@pytest.mark.parametrize("has_imatrix", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_types_equal_llama_cpp(sparse, shape: str, has_imatrix: bool) -> None:
    made, path = sparse(shape)
    for kind in FILE_TYPES.values():
        ours = choose_types(
            stored(made, "BF16"),
            file_type=kind,
            model=model_shape(made),
            has_imatrix=has_imatrix,
        )
        theirs = quantize_oracle.chosen_types(path, kind.number, has_imatrix=has_imatrix)
        assert list(theirs.items()) == [(n, c.type.name) for n, c in ours.items()], kind.name
        assert len(theirs) == len(made.tensors)


@pytest.mark.parametrize("outtype", ["F32", "F16"])
@pytest.mark.parametrize("shape", ["smollm2", "E2B"])
def test_the_intermediate_decides_what_stays(sparse, shape: str, outtype: str) -> None:
    made, path = sparse(shape, outtype)
    for name in ("Q4_K_M", "F16", "BF16", "F32"):
        kind = FILE_TYPES[name]
        ours = choose_types(stored(made, outtype), file_type=kind, model=model_shape(made))
        theirs = quantize_oracle.chosen_types(path, kind.number)
        assert theirs == {n: c.type.name for n, c in ours.items()}


@pytest.mark.parametrize(
    "options",
    [
        ["attn_v=Q8_0"],
        ["blk\\.[0-3]\\.ffn_down=F16", "ffn_=Q5_K"],
        ["FFN_DOWN=Q3_K", "token_embd=IQ4_XS", "attn_k=IQ3_S"],
        ["attn_(q|k)=Q6_K", "per_layer|output=Q4_1", "ffn_up=BF16"],
        ["blk=MXFP4", "token=F32"],
    ],
)
@pytest.mark.parametrize("shape", ["smollm2", "gqa4", "E4B", "odd"])
def test_overrides_equal_llama_cpp(sparse, shape: str, options: list[str]) -> None:
    made, path = sparse(shape)
    overrides = [parse_override(option) for option in options]
    names = " ".join(made.tensors)
    overrides = [o for o in overrides if o.pattern.search(names)]
    # llama-quantize lower-cases patterns before it calls the library.
    theirs_given = [(o.pattern.pattern.lower(), o.type.number) for o in overrides]
    for name in ("Q4_K_M", "Q3_K_M", "Q4_K_S", "IQ4_XS", "Q8_0"):
        kind = FILE_TYPES[name]
        ours = choose_types(
            stored(made, "BF16"), file_type=kind, model=model_shape(made), overrides=overrides
        )
        theirs = quantize_oracle.chosen_types(path, kind.number, overrides=theirs_given)
        assert theirs == {n: c.type.name for n, c in ours.items()}, name


def test_reasons_name_the_rule_and_the_fallback() -> None:
    made = SHAPES["smollm2"]()
    choices = choose_types(
        stored(made, "BF16"), file_type=FILE_TYPES["Q4_K_M"], model=model_shape(made)
    )
    value = choices["blk.0.attn_v.weight"]
    assert value.type.name == "Q8_0"
    assert "attn_v" in value.reason and "576" in value.reason
    assert choices["blk.0.attn_norm.weight"].reason == "kept: one-dimensional"
    assert choices["blk.29.ffn_down.weight"].reason == "Q4_K_M: ffn_down"


def test_order_is_by_layer_number_then_name() -> None:
    names = ["blk.10.a", "output.weight", "blk.2.b", "blk.2.a", "token_embd.weight"]
    expected = ["output.weight", "token_embd.weight", "blk.2.a", "blk.2.b", "blk.10.a"]
    assert llama_cpp_order(names) == expected


@pytest.mark.parametrize(
    "text", ["attn_v", "=Q4_K", "attn_v=Q9", "attn_v=", "(=Q4_K", "[[:d:]]=F16"]
)
def test_bad_overrides_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_override(text)
    assert text in str(caught.value)


def _choose(quant: str, override: str) -> None:
    made = SHAPES["odd"]()
    choose_types(
        stored(made, "F32"),
        file_type=file_type(quant),
        model=model_shape(made),
        overrides=[parse_override(override)],
    )


def test_an_override_that_does_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="matches no tensor"):
        _choose("Q4_K_M", "attn_norm=Q8_0")
    with pytest.raises(UsageError, match="no quantized tensor"):
        _choose("F16", "attn_v=Q8_0")


def test_a_type_that_needs_an_imatrix_is_refused_without_one() -> None:
    with pytest.raises(UsageError, match="importance matrix"):
        _choose("Q4_K_M", "attn_v=IQ2_XS")
