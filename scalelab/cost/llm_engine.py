"""llm-analysis as the paper used it: its roofline, with streams as rows of the batch.

The paper's model of a request with P streams, prompt i, output o, batch B (reproduced to 1e-9 on
all 192 reference values):

- every layer runs at batch P·B; for P > 1 the prompt is longer by the prefix, i + n;
- the aggregator turns P·B rows into B before the output embedding; its weights P·h² + h·P are
  kept in memory and cost 2 FLOPs a weight and token; the prefixes count as KV cache;
- decoding pays for layers, embeddings and twice the whole KV cache (load and store) each token.

llm-analysis 0.2.2 is older than the version the paper used: it has no gated MLP, and its MLP FLOPs
know neither widths nor experts. `_gated` supplies the missing formulas.

What goes beyond the paper's dense decoders follows llm-analysis where it says something: all experts
are kept in memory and read in every pass (too many where few tokens reach few experts), a token
computes `experts_per_token` of them, untied embeddings are kept twice and read once. The widths may be
real numbers: every formula is a polynomial in them, or the larger of two.
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

_BYTES = 2  # of each number, throughout; `_gpu_config` says how others are priced

# Without dependencies, because it asks for a transformers older than scalelab's.
_INSTALL = "to add it: pip install --no-deps llm-analysis==0.2.2"


def not_installed_error() -> NotPricedError:
    """Return the error for a package that is not installed: how to add it."""
    return NotPricedError(f"llm-analysis is not installed ({_INSTALL})", "or use `engine='roofline'`")


def gpu_names() -> list[str]:
    """The GPUs llm-analysis knows. Raises `NotPricedError` if it is not installed."""
    try:
        folder = files("llm_analysis") / "gpu_configs"
    except ModuleNotFoundError:
        raise not_installed_error() from None
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def price(architecture: Architecture, workload: Workload, device: Device, precision: str = "bf16") -> Cost:
    """Memory and latency of `workload`, with all numbers at `precision`. Raises `UsageError` for an unknown GPU.

    `device.hardware` stands in for llm-analysis' own table. There alone precisions other than 16 bits are
    priced: llm-analysis' table has no peaks for them.
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
    aggregate_s = 2 * aggregator * B / flops_a_second  # one token of each of B rows

    def forward_s(length: int, tokens: int) -> float:
        """One pass over P·B rows of `length`, `tokens` of which are aggregated before logits."""
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
    """An llm-analysis object for the plain decoder of `architecture`."""
    engine = _gated()
    config = sys.modules["llm_analysis.config"]
    model = config.ModelConfig(
        name="decoder",
        num_layers=architecture.num_layers,
        n_head=architecture.num_heads,
        hidden_dim=architecture.hidden_size,
        vocab_size=architecture.vocab_size,
        num_key_value_heads=architecture.num_kv_heads,
        # Both, since it insists that one divides the other when only one is given.
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
    """Return the GPU of llm-analysis' own table, or one of `device.hardware`.

    llm-analysis counts 2 bytes for each number. A device that holds and moves half as much, as it seems to
    numbers of 4 bytes, comes to the same.
    """
    hardware = device.hardware
    if hardware is None:
        return config.get_gpu_config_by_name(device.gpu)
    wider = KV_BITS[precision] / 8 / _BYTES
    return config.GPUConfig(
        name=hardware.name,
        mem_per_GPU_in_GB=hardware.memory_bytes / 2**30 / wider,
        hbm_bandwidth_in_GB_per_sec=hardware.bytes_per_s / 1e9 / wider,
        intra_node_bandwidth_in_GB_per_sec=1.0,  # of several GPUs, which are not priced
        intra_node_min_message_latency=0.0,
        peak_fp16_TFLOPS=hardware.peak(precision) / 1e12,
    )


@cache
def _gated() -> type:
    """LLMAnalysis with gated MLPs, three matrices of hidden × intermediate, and embeddings tied or not."""
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
    """Import it quietly and without transformers, which it wants only for looking up models.

    transformers would bring torch with it: three seconds instead of a fifth of one.
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
        raise ScalelabError(f"llm-analysis cannot be imported ({error}); install what it names") from None
    finally:
        if loaded is None:
            del sys.modules["transformers"]
    return llm_analysis.analysis
