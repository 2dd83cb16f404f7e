"""Parallel streams on a decoder. Importing this registers model_type ``qwen2_parscale``."""

from transformers import AutoConfig, AutoModelForCausalLM

from scalelab.model.qwen2 import (
    Qwen2ParScaleConfig,
    Qwen2ParScaleForCausalLM,
    Qwen2ParScaleModel,
)

AutoConfig.register("qwen2_parscale", Qwen2ParScaleConfig)
AutoModelForCausalLM.register(Qwen2ParScaleConfig, Qwen2ParScaleForCausalLM)

__all__ = ["Qwen2ParScaleConfig", "Qwen2ParScaleForCausalLM", "Qwen2ParScaleModel"]
