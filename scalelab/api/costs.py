"""Inference costs of decoders with streams, and their comparison with larger plain models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalelab.api.loading import console_of
from scalelab.architecture import Architecture
from scalelab.cost.describe import device_notes, priced_by
from scalelab.cost.devices import Devices
from scalelab.cost.fallback import choose_engines
from scalelab.cost.hardware import builtin_devices
from scalelab.cost.prices import Prices, price_all, price_max_requests
from scalelab.cost.quantised import checkpoint_precision
from scalelab.cost.request import PAPER_HEADS, PAPER_KV_HEADS, PAPER_LAYERS, PAPER_VOCAB, Device, Precision, Workload
from scalelab.cost.setting import (
    BATCHES,
    LENGTHS,
    EngineName,
    PresetName,
    check_sizes,
    choose_device,
    decoder,
    own_devices,
    preset_of,
)
from scalelab.cost.shape import ServedModel
from scalelab.errors import MissingPackageError, UsageError
from scalelab.units import one_count, seconds, whole_numbers

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from scalelab.cost.hardware import Hardware
    from scalelab.cost.runtime import Runtime as RuntimeName
    from scalelab.fit import FitResult, Group
    from scalelab.laws import Law
    from scalelab.plan.comparison import CostComparison
    from scalelab.records import RunTable

StoredCache = Literal["fp32", "bf16", "fp8", "int8", "int4", "q8_0", "q4_0"]
Arithmetic = Literal["fp32", "tf32", "bf16", "fp8", "int8", "int4", "fp4"]

MOST = "max"  # the largest batch within memory and latency limits

__all__ = ["compare_costs", "list_hardware", "price"]


def price(
    model: int | str | Path | Architecture | ServedModel,
    P: int | Sequence[int] = (1, 2, 4, 8),
    *,
    batch: int | Sequence[int] | Literal["max"] = 1,
    ttft: str | float | None = None,
    tpot: str | float | None = None,
    tokens_in: int | None = None,
    tokens_out: int | None = None,
    preset: PresetName = "parscale",
    engine: EngineName | Literal["both"] | None = None,
    gpu: str | Device | None = None,
    hardware: str | Path | Mapping[str, Hardware] | None = None,
    weights: str | float | None = None,
    kv: StoredCache | None = None,
    compute: Arithmetic | None = None,
    flops_efficiency: float | None = None,
    memory_efficiency: float | None = None,
    runtime: RuntimeName | None = None,
    launch_us: float | None = None,
    reserve: str | float | None = None,
    tensor_parallel: int | None = None,
    price_per_hour: float | None = None,
    watts: float | None = None,
    intermediate: int | None = None,
    layers: int = PAPER_LAYERS,
    heads: int = PAPER_HEADS,
    kv_heads: int = PAPER_KV_HEADS,
    vocab: int = PAPER_VOCAB,
    prefix_tokens: int | None = None,
    progress: bool | Console = False,
) -> Prices:
    """Price inference of a decoder with P streams: memory, latency and speed for each P and batch size.

    Args:
        model: A hidden size, with the paper's shape unless `layers`, `heads` and so on are given; the folder or
            config.json of a Hugging Face model; or an `Architecture`.
        P: Numbers of streams. P = 1 is always priced as well, for comparison.
        batch: Concurrent requests, one number or several; "max" for the largest batch within memory, `ttft` and `tpot`.
        ttft: With `batch="max"`, limit on the time to the first token, in seconds or as "500ms".
        tpot: With `batch="max"`, limit on the time per output token, in seconds or as "30ms".
        tokens_in: Prompt tokens per request.
        tokens_out: Generated tokens per request.
        preset: Defaults of other arguments: "parscale" (llm-analysis, 64 tokens in and out) or "serving" (roofline,
            512 tokens in and 128 out).
        engine: Cost model: "llm-analysis", "roofline" or "both". The roofline replaces llm-analysis where it does not
            support the model, device or precision.
        gpu: Device from `list_hardware` or from `hardware`.
        hardware: YAML file with devices of your own.
        weights: Storage format of the weights: a name from `scalelab.cost.formats.FORMATS`, such as "bf16", "q4_k_m" or
            "awq", or bits per weight such as 4.5; by default from the config of `model`, else bf16.
        kv: Storage format of the KV cache and prefixes; by default fp32 with fp32 weights, else bf16.
        compute: Precision of matrix products; by default fp32 with fp32 weights, else bf16.
        flops_efficiency: Achieved fraction of the peak FLOP/s; by default set by the device's class, 0.7 in
            llm-analysis, 1 on measured devices.
        memory_efficiency: Achieved fraction of the peak memory bandwidth; by default set by the device's class, 0.9 in
            llm-analysis, 1 on measured devices.
        runtime: Inference engine: "graphs" (TensorRT-LLM and others that capture graphs), "vllm", "llama.cpp" or
            "eager"; by default set by the device's class.
        launch_us: Overhead per kernel launch in µs; by default set by the device's class and the runtime.
        reserve: Memory used by driver and engine, in bytes or as "2GiB"; by default set by the device's class.
        tensor_parallel: Devices in a tensor-parallel group on one node; by default 1.
        price_per_hour: Price of one device in US dollars per hour; by default from the hardware table.
        watts: Power draw of one device in W; by default its limit in the hardware table.
        intermediate: Width of the MLP; by default about 5.4 times the hidden size.
        layers: Decoder layers.
        heads: Attention heads.
        kv_heads: Key/value heads.
        vocab: Vocabulary size.
        prefix_tokens: Prefix length of each stream; by default that of the model, else 48.
        progress: Report on standard error, or on a rich console, when a model takes long to build.

    Returns:
        Memory (bytes), latency (s) and speed (tokens/s) for each P, batch size and cost model.

    Raises:
        UsageError: An argument is wrong; `argument` names it.
        MissingPackageError: The shape of `model` can only be read by building it, which needs torch.
    """
    notes: list[str] = []
    chosen = preset_of(preset)
    plain: Architecture | ServedModel
    if isinstance(model, str | Path):
        from scalelab.measure.shapes import read_shape

        try:
            plain = read_shape(model, notes.append, console_of(progress).print).with_prefix(prefix_tokens)
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"{model}: reading the shape of this model type needs {error.name}: pip install 'scalelab[train]'"
            ) from None
    elif isinstance(model, Architecture | ServedModel):
        plain = model
    else:
        shape = {"intermediate": intermediate, "layers": layers, "heads": heads, "kv_heads": kv_heads, "vocab": vocab}
        plain = decoder(model, prefix_tokens=prefix_tokens, **shape)  # type: ignore[arg-type]
    streams = whole_numbers(P, "P")
    tokens = (
        chosen.tokens_in if tokens_in is None else tokens_in,
        chosen.tokens_out if tokens_out is None else tokens_out,
    )
    most = isinstance(batch, str) and batch == MOST
    if (ttft is not None or tpot is not None) and not most:
        raise UsageError("`ttft` and `tpot` need `batch='max'`; add it, or leave them out")
    limits = {"ttft": ttft, "tpot": tpot}
    bounds = {name: seconds(value, name) for name, value in limits.items() if value is not None}
    workloads = [Workload(size, *tokens) for size in ((1,) if most else whole_numbers(batch, "batch"))]
    precision = Precision("bf16" if weights is None else str(weights), kv, compute)
    if weights is None and isinstance(model, str | Path):
        precision = checkpoint_precision(model, kv, compute) or precision
    device = choose_device(
        gpu,
        hardware,
        flops_efficiency,
        memory_efficiency,
        runtime,
        launch_us,
        reserve,
        tensor_parallel,
        price_per_hour,
        watts,
    )
    found = choose_engines(engine or chosen.engine, plain, workloads[0], device, precision)
    notes += [found.note] if found.note else []
    if most:
        return price_max_requests(plain, streams, workloads[0], device, precision, found.engines, bounds, notes)
    return price_all(plain, streams, workloads, device, precision, found.engines, notes)


def compare_costs(
    hidden: int,
    P: int | Sequence[int] = 8,
    data: str | Path | pd.DataFrame | RunTable | None = None,
    *,
    corpus: str | None = None,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    law: str | Law | None = None,
    fit: str | Path | FitResult | None = None,
    D: str | float | None = None,
    batch: int | Sequence[int] = BATCHES,
    lengths: int | Sequence[int] = LENGTHS,
    vocab: int = PAPER_VOCAB,
    preset: PresetName = "parscale",
    engine: EngineName | None = None,
    gpu: str | Device | None = None,
    hardware: str | Path | Mapping[str, Hardware] | None = None,
    weights: str | float = "bf16",
    kv: StoredCache | None = None,
    compute: Arithmetic | None = None,
    flops_efficiency: float | None = None,
    memory_efficiency: float | None = None,
    runtime: RuntimeName | None = None,
    launch_us: float | None = None,
    reserve: str | float | None = None,
    tensor_parallel: int | None = None,
) -> CostComparison:
    """Compare the memory and latency that P streams add with those of a larger plain model of equal loss.

    Without `law` and `fit`, the size of the plain model is interpolated linearly over ln N between the measured losses
    of P = 1. With either, it follows from the law, with intervals, and may lie outside the measured range. With the
    roofline, intervals of latency include the error against published measurements of larger batches.

    Args:
        hidden: Hidden size of the model with streams.
        P: Numbers of streams.
        data: Losses, as for `fit_law`. Optional with `fit`.
        corpus: The corpus to use, if the data hold several.
        columns: Map from field to column or expression, as for `read`.
        where: Condition that selects rows, as for `read`.
        law: Law to fit to the data, by name or as an object; its losses replace measured ones. With `fit`, one of its
            laws to use alone.
        fit: A fit, or the file of a saved one; its losses, averaged over its laws, replace measured ones.
        D: Training tokens, if the data hold several values; with a law, the largest by default.
        batch: Concurrent requests, one number or several.
        lengths: Prompt tokens, with as many generated tokens; costs are averaged over these lengths.
        vocab: Vocabulary size, if the data do not hold it.
        preset: Defaults of other arguments, as for `price`.
        engine: Cost model: "llm-analysis" or "roofline", as for `price`.
        gpu: Device from `list_hardware` or from `hardware`.
        hardware: YAML file with devices of your own.
        weights: Storage format of the weights, as for `price`.
        kv: Storage format of the KV cache and prefixes, as for `price`.
        compute: Precision of matrix products, as for `price`.
        flops_efficiency: Achieved fraction of the peak FLOP/s, as for `price`.
        memory_efficiency: Achieved fraction of the peak memory bandwidth, as for `price`.
        runtime: Inference engine, as for `price`.
        launch_us: Overhead per kernel launch in µs, as for `price`.
        reserve: Memory used by driver and engine, in bytes or as "2GiB".
        tensor_parallel: Devices in a tensor-parallel group on one node; by default 1.

    Returns:
        For each group of runs, P and batch size: added memory (bytes) and latency (s), and their ratios.

    Raises:
        UsageError: An argument is wrong, or the data hold no runs of P = 1 to compare with.
    """
    from scalelab.cost.compare import price_by
    from scalelab.plan.comparison import Question, comparable_groups, compare_all, group_of

    if data is None and fit is None:
        raise UsageError("give `data` with measured losses, or `fit` with a saved fit")
    if data is None and (corpus or columns or where):
        raise UsageError("`corpus`, `columns` and `where` select measured runs: give `data` as well")
    check_sizes(hidden=hidden, vocab=vocab)
    used = (flops_efficiency, memory_efficiency, runtime, launch_us, reserve, tensor_parallel)
    device, precision = choose_device(gpu, hardware, *used), Precision(str(weights), kv, compute)
    sizes, spans = whole_numbers(batch, "batch"), whole_numbers(lengths, "lengths")
    work = Workload(sizes[0], spans[0], spans[0])
    wanted = engine or preset_of(preset).engine
    chosen = choose_engines(wanted, decoder(1024, vocab=vocab), work, device, precision)
    (name,) = chosen.engines
    question = Question(
        hidden=hidden,
        streams=whole_numbers(P, "P", least=2),
        batches=sizes,
        lengths=spans,
        vocab=vocab,
        D=None if D is None else one_count(D, "D"),
        price=price_by(name, device, precision),
        priced_by=priced_by(name, device, precision),
    )
    own, saved = _law_and_fit(law, fit)
    groups: list[Group | None] = [None]
    if data is not None:
        source = str(data) if isinstance(data, Path) else data
        by_tokens = own is None or "D" not in own.variables
        found = comparable_groups(source, columns, where, corpus, question.D, by_tokens)
        groups = [*found] if saved is None else [group_of(saved, found, source)]
    notes = [*([chosen.note] if chosen.note else []), *device_notes(device, precision, name)]
    return compare_all(question, groups, own, saved, notes)


def _law_and_fit(law: Any, fit: Any) -> tuple[Law | None, FitResult | None]:
    """Return the law to fit and None, or the law of a fit and the fit; (None, None) for measured losses."""
    if law is None and fit is None:
        return None, None
    from scalelab.fit import FitResult
    from scalelab.fit.mixture import choose, open_fit
    from scalelab.laws import get_law

    if fit is None:
        return (None if law is None else get_law(law)), None
    saved = choose(fit, law) if isinstance(fit, FitResult) else open_fit(fit, law)
    return saved.law, saved


def list_hardware(hardware: str | Path | None = None) -> Devices:
    """List the known devices with their specifications and sources.

    Args:
        hardware: YAML file with devices of your own, which come last.

    Returns:
        The devices, with memory in bytes, bandwidth in bytes/s and peak FLOP/s by precision.

    Raises:
        UsageError: The file does not exist, or a device in it is wrong.
    """
    return Devices(tuple((builtin_devices() | own_devices(hardware)).values()))
