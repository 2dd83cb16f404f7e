"""Cost model of the paper: llm-analysis, with streams as rows of the batch.

For a request with P streams, prompt i, output o and batch B (reproduces all 192 reference values to 1e-9):

- every layer runs at batch P·B; for P > 1 the prompt is longer by the prefix, i + n;
- the aggregator reduces P·B rows to B before the output embedding; its weights P·h² + h·P are in memory and cost 2
  FLOPs per weight and token; prefixes are part of the KV cache;
- each decoded token pays for layers, embeddings, and loading and storing the whole KV cache.

llm-analysis 0.2.2 is older than the version used in the paper: it has no gated MLP, and its MLP FLOPs ignore widths and
experts. `_gated` adds the missing formulas.

Beyond the paper's dense decoders this follows llm-analysis: all experts are in memory and read in every pass (an
overestimate if few tokens use few experts), a token computes `experts_per_token` of them, and untied embeddings are
stored twice and read once. Widths may be real numbers: every formula is a polynomial in them, or the larger of two.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from importlib.resources import files
from types import ModuleType
from typing import Any

from scalelab.aggregation import AGGREGATIONS
from scalelab.architecture import Architecture
from scalelab.cost.formats import KV_BITS
from scalelab.cost.hardware import unknown_device_error
from scalelab.cost.request import Cost, Device, Workload
from scalelab.errors import NotPricedError, ScalelabError

_BYTES = 2  # of every number; see `_gpu_config` for other precisions

# Without dependencies, because it requires an older transformers than scalelab.
_INSTALL = "pip install --no-deps llm-analysis==0.2.2"


def not_installed_error() -> NotPricedError:
    """Return the error for the missing package, with the command that installs it."""
    return NotPricedError(f"llm-analysis is not installed ({_INSTALL})", "or use `engine='roofline'`")


def gpu_names() -> list[str]:
    """List the GPUs of llm-analysis. Raises `NotPricedError` if it is not installed."""
    try:
        folder = files("llm_analysis") / "gpu_configs"
    except ModuleNotFoundError:
        raise not_installed_error() from None
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def price(architecture: Architecture, workload: Workload, device: Device, precision: str = "bf16") -> Cost:
    """Return the memory and latency of `workload`, with all numbers at `precision`.

    `device.hardware` overrides llm-analysis' own table. Only with it can precisions other than 16 bits be priced,
    because that table has no peaks for them.

    Raises:
        UsageError: The GPU is unknown.
    """
    if device.hardware is None and device.gpu not in gpu_names():
        raise unknown_device_error(device.gpu, gpu_names())
    wider = KV_BITS[precision] / 8 / _BYTES
    analysis = _analysis(architecture, device, precision)
    P, B = architecture.P, workload.batch
    i, o = workload.tokens_in, workload.tokens_out
    prompt = i + (architecture.prefix_tokens if P > 1 else 0)
    # The paper's cost model leaves out the aggregator's biases.
    aggregator = AGGREGATIONS[architecture.aggregation].matrix_params(architecture.hidden_size, P) if P > 1 else 0

    kv_cache = architecture.num_layers * analysis.get_memory_kv_cache_per_layer(P * B, prompt + o, _BYTES)
    activation = max(
        analysis.get_activation_memory_per_layer(P * B, prompt, is_inference=True, layernorm_dtype_bytes=_BYTES),
        analysis.get_activation_memory_output_embedding(B, prompt),
    )
    flops_a_second = analysis.get_TFLOPS_per_gpu() * 1e12
    bytes_a_second = analysis.get_gpu_hbm_bandwidth() * 1e9
    aggregate_s = 2 * aggregator * B / flops_a_second  # one token per row, for B rows

    def forward_s(length: int, tokens: int) -> float:
        """Return the time of one pass over P·B rows of `length`, with logits for `tokens` aggregated tokens."""
        latency, _ = analysis.get_latency_fwd(P * B, length, is_inference=True, layernorm_dtype_bytes=_BYTES)
        spared = analysis.get_latency_fwd_output_embedding_loss((P - 1) * B, tokens)
        return latency - spared + aggregate_s * tokens

    return Cost(
        architecture=architecture,
        workload=workload,
        weight_bytes=analysis.get_num_params_total() * _BYTES * wider,
        kv_cache_bytes=kv_cache * wider,
        activation_bytes=activation * wider,
        aggregator_bytes=aggregator * _BYTES * wider,
        prefill_s=forward_s(prompt, i),
        decode_s=o * (forward_s(1, 1) + 2 * kv_cache / bytes_a_second),
        device_bytes=analysis.gpu_config.mem_per_GPU_in_GB * 2**30 * wider,
    )


def _analysis(architecture: Architecture, device: Device, precision: str) -> Any:
    """Return an llm-analysis object for the plain decoder of `architecture`."""
    engine = _gated()
    config = sys.modules["llm_analysis.config"]
    model = config.ModelConfig(
        name="decoder",
        num_layers=architecture.num_layers,
        n_head=architecture.num_heads,
        hidden_dim=architecture.hidden_size,
        vocab_size=architecture.vocab_size,
        num_key_value_heads=architecture.num_kv_heads,
        # Both, since it requires that one divides the other if only one is given.
        ffn_embed_dim=architecture.intermediate_size,
        expansion_ratio=architecture.intermediate_size / architecture.hidden_size,
        moe_num_experts=max(1, architecture.num_experts),
        moe_top_k=architecture.experts_per_token if architecture.num_experts else 1,
    )
    model.tied_embeddings = architecture.tied_embeddings
    flops, memory = device.paper_shares()
    return engine(
        model,
        _gpu_config(config, device, precision),
        config.DtypeConfig(),
        flops_efficiency=flops,
        hbm_memory_efficiency=memory,
    )


def _gpu_config(config: Any, device: Device, precision: str) -> Any:
    """Return the GPU from llm-analysis' own table, or one made from `device.hardware`.

    llm-analysis counts 2 bytes for each number. For numbers of 4 bytes, memory and bandwidth are halved instead.
    """
    hardware = device.hardware
    if hardware is None:
        return config.get_gpu_config_by_name(device.gpu)
    wider = KV_BITS[precision] / 8 / _BYTES
    return config.GPUConfig(
        name=hardware.name,
        mem_per_GPU_in_GB=hardware.memory_bytes / 2**30 / wider,
        hbm_bandwidth_in_GB_per_sec=hardware.bytes_per_s / 1e9 / wider,
        intra_node_bandwidth_in_GB_per_sec=1.0,  # for several GPUs, which are not priced
        intra_node_min_message_latency=0.0,
        peak_fp16_TFLOPS=hardware.peak(precision) / 1e12,
    )


@cache
def _gated() -> type:
    """Return a subclass of LLMAnalysis with gated MLPs (three matrices) and tied or untied embeddings."""
    base = _import_llm_analysis().LLMAnalysis

    class GatedAnalysis(base):
        def get_num_params_per_layer_mlp(self) -> int:
            return self._one_mlp() * self.model_config.moe_num_experts

        def get_num_flops_fwd_per_layer_mlp(self, batch_size: int, seq_len: int) -> int:
            return 2 * batch_size * seq_len * self._one_mlp() * self.model_config.moe_top_k

        def get_num_params_embedding(self, shared_embedding: bool = True) -> int:
            return super().get_num_params_embedding(shared_embedding and self.model_config.tied_embeddings)

        def _one_mlp(self) -> int:
            return 3 * self.model_config.hidden_dim * self.model_config.ffn_embed_dim

    return GatedAnalysis


def _import_llm_analysis() -> ModuleType:
    """Import llm-analysis without log messages and without transformers, which it needs only to look up models.

    transformers would import torch, which takes three seconds instead of 0.2.
    """
    try:
        import llm_analysis.logger
    except ImportError:
        raise not_installed_error() from None
    llm_analysis.logger.logger.setLevel(logging.ERROR)
    loaded = sys.modules.get("transformers")
    if loaded is None:
        sys.modules["transformers"] = None  # type: ignore[assignment]  # makes importing it an ImportError
    try:
        import llm_analysis.analysis
    except ImportError as error:
        raise ScalelabError(f"llm-analysis cannot be imported ({error}); install the missing package") from None
    finally:
        if loaded is None:
            del sys.modules["transformers"]
    return llm_analysis.analysis
