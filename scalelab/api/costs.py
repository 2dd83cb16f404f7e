"""Price decoders with streams, and compare streams with growing N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalelab.architecture import Architecture
from scalelab.cost.devices import Devices
from scalelab.cost.fallback import choose_engines
from scalelab.cost.hardware import built_in
from scalelab.cost.model import PAPER_HEADS, PAPER_KV_HEADS, PAPER_LAYERS, PAPER_VOCAB, Device, Precision, Workload
from scalelab.cost.prices import Prices, price_all
from scalelab.cost.setting import (
    BATCHES,
    LENGTHS,
    EngineName,
    PresetName,
    check_sizes,
    choose_device,
    decoder,
    describe,
    own_devices,
    preset_of,
)
from scalelab.cost.shape import ServedModel
from scalelab.errors import MissingPackageError, UsageError
from scalelab.units import one_count, whole_numbers

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.cost.hardware import Hardware
    from scalelab.fit import FitResult, Group
    from scalelab.laws import Law
    from scalelab.plan.comparison import CostComparison
    from scalelab.records import Table

Stored = Literal["fp32", "bf16", "fp8", "int8", "int4"]
Arithmetic = Literal["fp32", "tf32", "bf16", "fp8", "int8", "int4"]

__all__ = ["compare_costs", "list_hardware", "price"]


def price(
    model: int | str | Path | Architecture | ServedModel,
    P: int | Sequence[int] = (1, 2, 4, 8),
    *,
    batch: int | Sequence[int] = 1,
    tokens_in: int | None = None,
    tokens_out: int | None = None,
    preset: PresetName = "parscale",
    engine: EngineName | Literal["both"] | None = None,
    gpu: str | Device | None = None,
    hardware: str | Path | Mapping[str, Hardware] | None = None,
    weights: Stored = "bf16",
    kv: Stored | None = None,
    compute: Arithmetic | None = None,
    flops_efficiency: float | None = None,
    memory_efficiency: float | None = None,
    intermediate: int | None = None,
    layers: int = PAPER_LAYERS,
    heads: int = PAPER_HEADS,
    kv_heads: int = PAPER_KV_HEADS,
    vocab: int = PAPER_VOCAB,
    prefix_tokens: int | None = None,
) -> Prices:
    """Price a decoder with P streams: memory and latency of inference for each P and batch size.

    Args:
        model: A hidden size, of the paper's family unless `layers`, `heads` and so on say otherwise; the folder or
            config.json of a Hugging Face model; or an `Architecture`.
        P: Parallel streams. P = 1 is always priced too, to compare with.
        batch: Requests at once.
        tokens_in: Prompt tokens.
        tokens_out: Generated tokens.
        preset: What stands for what is not given: "parscale" (llm-analysis, 64 tokens in and out) or "serving" (the
            roofline, 512 in and 128 out).
        engine: Cost model: "llm-analysis", "roofline" or "both". What llm-analysis cannot price the roofline does.
        gpu: A device of `list_hardware`, or of `hardware`.
        hardware: A YAML file with devices of your own.
        weights: How weights are stored.
        kv: How KV cache and prefixes are stored; by default fp32 with fp32 weights, else bf16.
        compute: Precision of matrix products; by default fp32 with fp32 weights, else bf16.
        flops_efficiency: Share of the peak FLOP/s that is reached; by default 0.7, of measured devices 1.
        memory_efficiency: Share of the peak bandwidth that is reached; by default 0.9, of measured devices 1.
        intermediate: Width of the MLP; by default about 5.4 times the hidden size.
        layers: Decoder layers.
        heads: Attention heads.
        kv_heads: Key/value heads.
        vocab: Vocabulary size.
        prefix_tokens: Prefix length of each stream; by default 48, or the model's own.

    Raises:
        UsageError: An argument is wrong; it is named in `argument`.
    """
    chosen, notes = preset_of(preset), []
    plain: Architecture | ServedModel
    if isinstance(model, str | Path):
        from scalelab.measure.shapes import read_shape

        try:
            plain = read_shape(model, notes.append).with_prefix(prefix_tokens)
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
    workloads = [Workload(size, *tokens) for size in whole_numbers(batch, "batch")]
    precision = Precision(weights, kv, compute)
    device = choose_device(gpu, hardware, flops_efficiency, memory_efficiency)
    found = choose_engines(engine or chosen.engine, plain, workloads[0], device, precision)
    notes += [found.note] if found.note else []
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
    weights: Stored = "bf16",
    kv: Stored | None = None,
    flops_efficiency: float | None = None,
    memory_efficiency: float | None = None,
) -> CostComparison:
    """Compare what P streams add to memory and latency with what growing N to the same loss adds.

    The plain model of equal loss is read off the measured losses of P = 1, joined by straight lines over ln N. With
    `law` or `fit` it is the law's, with intervals, and may lie outside of what was measured.

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
        weights: How weights are stored.
        kv: How KV cache and prefixes are stored.
        flops_efficiency: Share of the peak FLOP/s that is reached.
        memory_efficiency: Share of the peak bandwidth that is reached.

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
    device, precision = choose_device(gpu, hardware, flops_efficiency, memory_efficiency), Precision(weights, kv)
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
        priced_by=describe(name, device, precision),
    )
    own, saved = _law_and_fit(law, fit)
    groups: list[Group | None] = [None]
    if data is not None:
        source = str(data) if isinstance(data, Path) else data
        by_tokens = own is None or "D" not in own.variables
        found = comparable_groups(source, columns, where, corpus, question.D, by_tokens)
        groups = [*found] if saved is None else [group_of(saved, found, source)]
    return compare_all(question, groups, own, saved, [chosen.note] if chosen.note else [])


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
    return Devices(tuple((built_in() | own_devices(hardware)).values()))
