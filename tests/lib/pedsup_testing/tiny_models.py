"""Tiny random models with a real shape: Hugging Face folders built by transformers itself.

`llama(folder)` and `gemma4(folder, shape="e4b" | "e2b")` write config, float32 safetensors and a
small tokenizer of Gemma's kind whose control tokens have Gemma 4's real ids. Weights are random
but of a size that makes the logits differ between tokens, norms are not all one, so that a
swapped or dropped tensor shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pedsup_testing.kept import kept

TEXT = (
    "The child has a fever and a cough. El niño tiene fiebre y tos. Oral rehydration helps a child "
    "with diarrhea. La rehidratación oral ayuda al niño con diarrea. Check the breathing rate and "
    "the weight. Controle la frecuencia respiratoria y el peso. Vaccines protect infants. Las "
    "vacunas protegen a los lactantes. Which of these signs is an emergency? ¿Cuál de estos signos "
    "es una urgencia? A professional reviews every answer. Un profesional revisa cada respuesta."
)
VOCAB_SIZE = 768
N_MERGES = 240
_CONTROL = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>", 46: "<|tool>",
            47: "<tool|>", 98: "<|think|>", 105: "<|turn>", 106: "<turn|>"}  # fmt: skip
_VISIBLE = {48: "<|tool_call>", 49: "<tool_call|>", 50: "<|tool_response>", 51: "<tool_response|>",
            52: '<|"|>', 100: "<|channel>", 101: "<channel|>"}  # fmt: skip

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def write_tokenizer(
    folder: Path,
    *,
    chat_template: str = CHAT_TEMPLATE,
    text: str = TEXT,
    n_merges: int = N_MERGES,
    vocab_size: int = VOCAB_SIZE,
    more: dict[int, str] | None = None,
) -> None:
    """Byte-fallback BPE with Gemma 4's control token ids, learned from `text`.

    Args:
        more: further control tokens.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    letters = set(text.replace(" ", "▁").replace("\n", ""))
    alphabet = sorted(letters | {chr(c) for c in range(33, 127)})
    trained.train_from_iterator(
        text.split("\n"),
        trainers.BpeTrainer(
            vocab_size=len(alphabet) + n_merges, initial_alphabet=alphabet, show_progress=False
        ),
    )
    learned = json.loads(trained.to_str())["model"]
    control = {**_CONTROL, **(more or {})}
    names = {**control, **_VISIBLE}
    tokens = [names.get(i, f"<unused{i}>") for i in range(107)] + ["\n"]
    tokens += [f"<0x{i:02X}>" for i in range(256)]
    tokens += sorted(learned["vocab"], key=learned["vocab"].get)
    tokens += [f"<unused{i}>" for i in range(len(tokens), vocab_size)]
    assert len(tokens) == len(set(tokens)) == vocab_size
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": i in control}
            for i, text in sorted(names.items())
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "},
                          "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "<bos>", "type_id": 1}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>",
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
            "byte_fallback": True, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": learned["merges"],
        },
    }  # fmt: skip
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "model_max_length": 131072,
        "extra_special_tokens": [text for i, text in sorted(control.items()) if i > 4],
        "chat_template": chat_template,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("tokenizer.json", document), ("tokenizer_config.json", config)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def gemma4_text_config(shape: str = "e4b", **overrides: Any) -> Any:
    """A small `Gemma4TextConfig`: two head sizes, KV-shared layers, per-layer embeddings, softcap.

    "e2b" has a double-wide feed-forward in its shared layers. The sliding window (16) is
    shorter than a test prompt. Rows are multiples of 256, so that K-quants apply.
    """
    from transformers import Gemma4TextConfig

    layers = 8
    pattern = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    values: dict[str, Any] = dict(
        vocab_size=VOCAB_SIZE,
        vocab_size_per_layer_input=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1 if shape == "e2b" else 2,
        head_dim=64,
        global_head_dim=128,
        hidden_size_per_layer_input=32,
        num_kv_shared_layers=4,
        use_double_wide_mlp=shape == "e2b",
        sliding_window=16,
        layer_types=(pattern * layers)[:layers],
        final_logit_softcapping=30.0,
        max_position_embeddings=2048,
        initializer_range=0.08,
        dtype="float32",
    )
    return Gemma4TextConfig(**{**values, **overrides})


@kept
def gemma4(folder: Path, *, shape: str = "e4b", seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny `Gemma4ForCausalLM` folder and return it."""
    from transformers import Gemma4ForCausalLM

    return _save(folder, Gemma4ForCausalLM, gemma4_text_config(shape, **overrides), seed)


@kept
def gemma4_multimodal(folder: Path, *, shape: str = "e4b", seed: int = 0) -> Path:
    """Write a tiny `Gemma4ForConditionalGeneration` folder with vision and audio towers."""
    from transformers import Gemma4AudioConfig, Gemma4Config, Gemma4VisionConfig
    from transformers import Gemma4ForConditionalGeneration as Model

    vision = Gemma4VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, patch_size=4,
    )  # fmt: skip
    audio = Gemma4AudioConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, output_proj_dims=32
    )
    config = Gemma4Config(
        text_config=gemma4_text_config(shape), vision_config=vision, audio_config=audio
    )
    return _save(folder, Model, config, seed)


def gemma4_assistant(folder: Path, *, shape: str = "e4b", seed: int = 3) -> Path:
    """Write a tiny `Gemma4AssistantForCausalLM` folder: a drafter for `gemma4(shape=shape)`."""
    from transformers import Gemma4AssistantConfig

    width = gemma4_text_config(shape).hidden_size
    text = gemma4_text_config(
        shape,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_kv_shared_layers=4,
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=0,
        use_double_wide_mlp=False,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
    )
    config = Gemma4AssistantConfig(text_config=text, backbone_hidden_size=width)
    return _save(folder, assistant_class(), config, seed)


def assistant_class() -> Any:
    """transformers' `Gemma4AssistantForCausalLM`, made usable.

    Version 5.23.0 cannot make one: its check that every kind of layer has a layer of its own to
    take keys and values from runs for the drafter too, which has none by design.
    """
    from transformers import Gemma4AssistantForCausalLM, Gemma4TextConfig

    original = Gemma4TextConfig.kv_sharing_modes
    if not hasattr(original, "pedsup"):

        class Modes(property):
            pedsup = True

        def modes(self: Any) -> list[str | None]:
            if self.num_kv_shared_layers == self.num_hidden_layers:
                return ["reuse"] * self.num_hidden_layers
            return original.fget(self)  # type: ignore[no-any-return]

        Gemma4TextConfig.kv_sharing_modes = Modes(modes)
    return Gemma4AssistantForCausalLM


@kept
def llama(folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny `LlamaForCausalLM` folder (grouped-query attention, tied) and return it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    values: dict[str, Any] = dict(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.08,
        dtype="float32",
    )
    return _save(folder, LlamaForCausalLM, LlamaConfig(**{**values, **overrides}), seed)


@kept
def gemma2(folder: Path, *, chat_template: str) -> Path:
    """Write a tiny `Gemma2ForCausalLM` folder with a tokenizer.model and return it."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=VOCAB_SIZE, hidden_size=256, intermediate_size=512,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        sliding_window=16, max_position_embeddings=2048, initializer_range=0.08, dtype="float32",
    )  # fmt: skip
    _save(folder, Gemma2ForCausalLM, config, 2)
    write_tokenizer(folder, chat_template=chat_template)
    write_tokenizer_model(folder)
    return folder


def gemma3_text_config(**overrides: Any) -> Any:
    """A small `Gemma3TextConfig`: six sliding layers and one of full attention, all of Gemma 3's
    parts; the window (16) is shorter than a test prompt.
    """
    from transformers import Gemma3TextConfig

    values: dict[str, Any] = dict(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=128,
        query_pre_attn_scalar=128,
        sliding_window=16,
        max_position_embeddings=2048,
        initializer_range=0.08,
        dtype="float32",
    )
    return Gemma3TextConfig(**{**values, **overrides})


def gemma3_older_config(config: dict[str, Any]) -> dict[str, Any]:
    """A Gemma 3 text model's configuration as transformers 4 wrote it."""
    old = {k: v for k, v in config.items() if k not in ("rope_parameters", "layer_types")}
    rope = dict(config["rope_parameters"]["full_attention"])
    old["rope_theta"] = rope.pop("rope_theta")
    old["rope_local_base_freq"] = config["rope_parameters"]["sliding_attention"]["rope_theta"]
    old["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return {**old, "sliding_window_pattern": 6}


@kept
def gemma3(folder: Path, *, seed: int = 4, **overrides: Any) -> Path:
    """Write a tiny `Gemma3ForCausalLM` folder with a tokenizer.model and return it."""
    from transformers import Gemma3ForCausalLM

    _save(folder, Gemma3ForCausalLM, gemma3_text_config(**overrides), seed)
    write_tokenizer_model(folder)
    return folder


@kept
def gemma3_multimodal(folder: Path, *, seed: int = 5, **overrides: Any) -> Path:
    """Write a tiny `Gemma3ForConditionalGeneration` folder with a vision tower, as MedGemma is.

    Its text model has linear rope scaling in the full layers, and more rows than tokens.
    """
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    text = gemma3_text_config(
        vocab_size=VOCAB_SIZE + 64,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        **overrides,
    )
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        image_size=56, patch_size=14,
    )  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    _save(folder, Gemma3ForConditionalGeneration, config, seed)
    write_tokenizer_model(folder)
    return folder


@kept
def qwen(folder: Path, vocabulary: Path, *, version: int, seed: int = 6, **overrides: Any) -> Path:
    """Write a `Qwen2ForCausalLM` or `Qwen3ForCausalLM` folder: tiny but for Qwen's real vocabulary.

    Args:
        vocabulary: llama.cpp's ggml-vocab-qwen2.gguf: an unknown vocabulary has no pre-tokenizer.
    """
    import transformers

    values: dict[str, Any] = dict(
        vocab_size=151936,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=version == 2,
        bos_token_id=151643,
        eos_token_id=151643,
        initializer_range=0.08,
        dtype="float32",
        **({"head_dim": 32} if version == 3 else {}),
    )
    config = getattr(transformers, f"Qwen{version}Config")(**{**values, **overrides})
    _save(folder, getattr(transformers, f"Qwen{version}ForCausalLM"), config, seed)
    write_qwen_tokenizer(folder, vocabulary)
    return folder


def write_qwen_tokenizer(folder: Path, vocabulary: Path) -> None:
    """Qwen2's tokenizer.json and tokenizer_config.json, put together by transformers."""
    from transformers import Qwen2Tokenizer

    from pedsup.gguf_file import read_header

    header = read_header(vocabulary)
    tokens, types, merges = (
        header.metadata[f"tokenizer.ggml.{part}"].values()
        for part in ("tokens", "token_type", "merges")
    )
    plain = [i for i, kind in enumerate(types) if kind == 1]
    tokenizer = Qwen2Tokenizer(
        vocab={tokens[i]: i for i in plain}, merges=[tuple(m.split(" ")) for m in merges]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)


def write_tokenizer_model(folder: Path) -> None:
    """tokenizer.model for the tokens of `write_tokenizer`, by SentencePiece's own protocol buffer.

    Scores are minus a token's place among the plain ones, as in Gemma 3's file. As there,
    tokenizer_config.json lists the added tokens too: llama.cpp's converter reads them there.
    """
    from sentencepiece import sentencepiece_model_pb2 as protocol

    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab, merges = document["model"]["vocab"], document["model"]["merges"]
    special = {token["content"] for token in document["added_tokens"]}
    rank = {"".join(m if isinstance(m, list) else m.split(" ")): -i for i, m in
            reversed(list(enumerate(merges)))}  # fmt: skip
    model = protocol.ModelProto()
    model.trainer_spec.model_type = 2  # BPE
    model.trainer_spec.byte_fallback = True
    piece_type = protocol.ModelProto.SentencePiece.Type
    plain = [t for t in vocab if t not in special and not t.startswith("<0x")]
    plain.sort(key=lambda t: (-rank.get(t, -len(merges)), vocab[t]))
    places = {text: place for place, text in enumerate(plain)}
    for text in sorted(vocab, key=vocab.get):
        kind = piece_type.NORMAL
        if text.startswith("<0x"):
            kind = piece_type.BYTE
        elif text == "<unk>":
            kind = piece_type.UNKNOWN
        elif text in ("<pad>", "<eos>", "<bos>"):
            kind = piece_type.CONTROL
        elif text in special:
            kind = piece_type.USER_DEFINED
        score = -float(places[text]) if text in places else 0.0
        model.pieces.add(piece=text, score=score, type=kind)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["added_tokens_decoder"] = {str(t.pop("id")): t for t in document["added_tokens"]}
    path.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")


def lora(folder: Path, base: Path, *, seed: int = 1, **overrides: Any) -> Path:
    """Write a PEFT LoRA adapter for `base` whose two halves are random and not zero."""
    _lora(folder, base, seed=seed, **overrides)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = str(base)
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    return folder


@kept
def _lora(folder: Path, base: Path, *, seed: int, **overrides: Any) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    values: dict[str, Any] = dict(
        r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(**{**values, **overrides}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    model.save_pretrained(folder)
    return folder


def _save(folder: Path, model_class: Any, config: Any, seed: int) -> Path:
    import torch

    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("proj.bias"):
                parameter.normal_(0, 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.uniform_(0.8, 1.2)
    model.to(torch.float32).eval()
    model.save_pretrained(folder)
    write_tokenizer(Path(folder))
    return Path(folder)
