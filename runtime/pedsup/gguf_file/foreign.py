"""Models of other architectures, which llama.cpp runs and whose parts pedsup does not know.

Their files pass the checks that hold for any language model. The user is told what was not checked.
"""

from __future__ import annotations

from typing import Final

from pedsup.gguf_file.header import GGUFHeader
from pedsup.gguf_file.rules import RULES
from pedsup.messages import Message, message

_NAMES: Final = """
    afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bitnet bloom
    chameleon chatglm codeshell cogvlm cohere2 cohere2moe command-r dbrx deci deepseek deepseek2
    deepseek2-ocr deepseek32 deepseek4 dots1 dots3note ernie4_5 ernie4_5-moe exaone exaone-moe
    exaone4 falcon falcon-h1 gemma gemma2 gemma3n glm-dsa glm4 glm4moe glm5-next gpt-oss gpt2 gptj
    gptneox granite granite_swa granitehybrid granitemoe graniteswitch grok grovemoe hrm_text
    hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 hy_v4 internlm2 jais jais2 jamba kimi-k3 kimi-linear
    laguna lfm2 lfm2moe llama4 maincoder mamba mamba2 maple mellum mimo2 minicpm minicpm3 minimax-01
    minimax-m2 minimax-m3 mistral3 mistral4 mpt muse-glimmer nanbeige nemotron nemotron_h
    nemotron_h_moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo
    plamo2 plamo3 plm qwen qwen2moe qwen2vl qwen35 qwen35moe qwen3moe qwen3next qwen3vl qwen3vlmoe
    qwen4exp refact rwkv6 rwkv6qwen2 rwkv7 seed_oss smallthinker smollm3 spark2_5 stablelm starcoder
    starcoder2 step35 talkie xverse
"""
FOREIGN: Final = frozenset(_NAMES.split())
"""Architectures of llama.cpp 0c1e57098 that write text from left to right, but for our own. Not
among them: encoders (bert, t5), diffusion models (llada), drafters (eagle3), projectors (clip),
speech (pockettts)."""


def is_foreign(header: GGUFHeader) -> bool:
    """Whether llama.cpp runs the model and pedsup has no rules for it."""
    return header.architecture in FOREIGN and header.architecture not in RULES


def unchecked(header: GGUFHeader) -> Message | None:
    """What was not checked in a foreign model, for its user; None for a model that pedsup knows."""
    if not is_foreign(header):
        return None
    return message(
        "WARNING: pedsup does not know the architecture '{name}'. It checked the format, the "
        "tokenizer and the types of the tensors. It did not check whether sizes and tensors fit "
        "together: a damaged file may crash llama.cpp. Memory figures are upper bounds by rule of "
        "thumb, not measured. --strict refuses such models.",
        name=header.architecture,
    )
