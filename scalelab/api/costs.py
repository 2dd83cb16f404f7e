"""Price decoders with streams, and compare streams with growing N."""

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
    from scalelab.records import Table

StoredCache = Literal["fp32", "bf16", "fp8", "int8", "int4", "q8_0", "q4_0"]
Arithmetic = Literal["fp32", "tf32", "bf16", "fp8", "int8", "int4", "fp4"]

MOST = "max"  # as many requests at once as there is room and time for

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
    """Price a decoder with P streams: memory, latency and speed of inference for each P and batch size.

    Args:
        model: A hidden size, of the paper's family unless `layers`, `heads` and so on say otherwise; the folder or
            config.json of a Hugging Face model; or an `Architecture`.
        P: Parallel streams. P = 1 is always priced too, to compare with.
        batch: Requests at once; or "max" for the most within memory, `ttft` and `tpot`.
        ttft: With `batch="max"` a limit on the time to the first token, in seconds or as "500ms".
        tpot: With `batch="max"` a limit on the time of each token after it.
        tokens_in: Prompt tokens.
        tokens_out: Generated tokens.
        preset: What stands for what is not given: "parscale" (llm-analysis, 64 tokens in and out) or "serving" (the
            roofline, 512 in and 128 out).
        engine: Cost model: "llm-analysis", "roofline" or "both". What llm-analysis cannot price the roofline does.
        gpu: A device of `list_hardware`, or of `hardware`.
        hardware: A YAML file with devices of your own.
        weights: How weights are stored: a name of `scalelab.cost.formats.FORMATS`, such as "bf16", "q4_k_m" or "awq",
            or bits such as 4.5; by default as the config of `model` says, else bf16.
        kv: How KV cache and prefixes are stored; by default fp32 with fp32 weights, else bf16.
        compute: Precision of matrix products; by default fp32 with fp32 weights, else bf16.
        flops_efficiency: Share of the peak FLOP/s that is reached; by default by class, by llm-analysis 0.7, of
            measured devices 1.
        memory_efficiency: Share of the peak bandwidth that is reached; by default by class, by llm-analysis 0.9, of
            measured devices 1.
        runtime: Engine that runs the model: "graphs" (TensorRT-LLM and other captured graphs), "vllm", "llama.cpp" or
            "eager"; by default the usual one of the device's class.
        launch_us: Microseconds that each kernel adds; by default by class and runtime.
        reserve: Memory held by driver and engine, in bytes or as "2GiB"; by default by class.
        tensor_parallel: Devices of one node that share every matrix; by default one.
        price_per_hour: US dollars for an hour of one device; by default the table's, if any.
        watts: Power of one device; by default its limit in the table.
        intermediate: Width of the MLP; by default about 5.4 times the hidden size.
        layers: Decoder layers.
        heads: Attention heads.
        kv_heads: Key/value heads.
        vocab: Vocabulary size.
        prefix_tokens: Prefix length of each stream; by default 48, or the model's own.
        progress: Say on standard error, or on this console of rich, when a model takes long to build.

    Raises:
        UsageError: An argument is wrong; it is named in `argument`.
    """
    chosen, notes = preset_of(preset), []
    plain: Architecture | ServedModel
    if isinstance(model, str | Path):
        from scalelab.measure.shapes import read_shape

        try:
            plain = read_shape(model, notes.append, console_of(progress).print).with_prefix(prefix_tokens)
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"{model}: this model type is in no table, and to build it needs {error.name}: "
                "pip install 'scalelab[train]'"
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
        raise UsageError("`ttft` and `tpot` are limits on `batch='max'`; leave them out, or give that")
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
    data: str | Path | pd.DataFrame | Table | None = None,
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
    """Compare what P streams add to memory and latency with what growing N to the same loss adds.

    The plain model of equal loss is read off the measured losses of P = 1, joined by straight lines over ln N. With
    `law` or `fit` it is the law's, with intervals, and may lie outside of what was measured. By the roofline the
    intervals of latency also hold how far published measurements of P rows over one are off.

    Args:
        hidden: Hidden size of the model with streams.
        P: Parallel streams.
        data: Losses, as for `fit_law`. May be left out with `fit`.
        corpus: Which text, where the data hold several.
        columns: Which column holds what.
        where: Which rows.
        law: Losses by this law, fitted to the data.
        fit: Losses by this fit, or by the one saved in this file.
        D: Training tokens, where the data hold several; by a law the most of them.
        batch: Requests at once.
        lengths: Tokens in, and as many out: costs are averaged over these.
        vocab: Vocabulary size where the data know none.
        preset: What stands for what is not given, as for `price`.
        engine: Cost model. What llm-analysis cannot price the roofline does.
        gpu: A device of `list_hardware`, or of `hardware`.
        hardware: A YAML file with devices of your own.
        weights: How weights are stored, as for `price`.
        kv: How KV cache and prefixes are stored.
        compute: Precision of matrix products.
        flops_efficiency: Share of the peak FLOP/s that is reached.
        memory_efficiency: Share of the peak bandwidth that is reached.
        runtime: Engine that runs the model, as for `price`.
        launch_us: Microseconds that each kernel adds.
        reserve: Memory held by driver and engine, in bytes or as "2GiB".
        tensor_parallel: Devices of one node that share every matrix; by default one.

    Raises:
        UsageError: An argument is wrong, or the data hold no runs to compare with.
    """
    from scalelab.cost.compare import price_by
    from scalelab.plan.comparison import Question, comparable_groups, compare_all, group_of

    if data is None and fit is None:
        raise UsageError("give `data` with measured losses, or `fit` with a saved fit")
    if data is None and (corpus or columns or where):
        raise UsageError("`corpus`, `columns` and `where` are about measured runs: give `data` too")
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
    """The law to fit, or the fit and its law; neither where losses are to be measured ones."""
    if law is None and fit is None:
        return None, None
    from scalelab.fit import FitResult, load_fit
    from scalelab.laws import get_law

    own = None if law is None else get_law(law)
    if fit is None:
        return own, None
    saved = fit if isinstance(fit, FitResult) else load_fit(fit, own)
    return saved.law, saved


def list_hardware(hardware: str | Path | None = None) -> Devices:
    """List the devices that can be priced, with their figures and sources.

    Args:
        hardware: A YAML file with devices of your own, which come last.
    """
    return Devices(tuple((builtin_devices() | own_devices(hardware)).values()))
