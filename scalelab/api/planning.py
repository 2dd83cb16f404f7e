"""Plans: the N and P to train and serve, from a fitted law, a cost model and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scalelab.api.costs import Arithmetic, StoredCache
from scalelab.api.lifetime import belief_of, is_published, lifetime_plan
from scalelab.cost.compare import price_by
from scalelab.cost.describe import device_notes, priced_by
from scalelab.cost.fallback import choose_engines
from scalelab.cost.request import (
    PAPER_HEADS,
    PAPER_KV_HEADS,
    PAPER_LAYERS,
    PAPER_VOCAB,
    Device,
    Precision,
    Workload,
)
from scalelab.cost.setting import EngineName, PresetName, check_sizes, choose_device, decoder, preset_of
from scalelab.errors import UsageError, choice_error
from scalelab.fit import FitResult
from scalelab.fit.many import FitResults
from scalelab.fit.mixture import choose, open_fit
from scalelab.laws import LAWS
from scalelab.plan import SHAPES, Limits, Plan, Problem, Shapes
from scalelab.plan import make_plan as solve
from scalelab.plan.lifetime import LifetimePlan
from scalelab.plan.lifetime_costs import UNITS, Serving
from scalelab.plan.problem import tokens_of
from scalelab.units import memory_bytes, one_count, seconds, whole_numbers

if TYPE_CHECKING:
    from scalelab.cost.hardware import Hardware
    from scalelab.cost.runtime import Runtime as RuntimeName
    from scalelab.laws import Law

TRAINER = "h100-sxm-80gb"
SERVED_LIMITS = ("memory", "latency", "ttft", "tpot")

__all__ = ["make_plan"]


def make_plan(
    fit: FitResult | str | Path,
    *,
    memory: str | float | None = None,
    latency: str | float | None = None,
    ttft: str | float | None = None,
    tpot: str | float | None = None,
    train_flops: str | float | None = None,
    loss: float | None = None,
    by: Literal["latency", "ttft", "tpot", "memory", "training", "flops", "seconds", "money"] | None = None,
    serve_tokens: str | float | None = None,
    constants: Mapping[str, float] | None = None,
    P: int | Sequence[int] | None = None,
    max_P: int = 64,
    gpu: str | Device | None = None,
    batch: int = 1,
    tokens_in: int | None = None,
    tokens_out: int | None = None,
    D: str | float | None = None,
    second_stage_fraction: float = 1.0,
    shapes: Literal["paper", "ladder"] = "paper",
    layers: int = PAPER_LAYERS,
    heads: int = PAPER_HEADS,
    kv_heads: int = PAPER_KV_HEADS,
    vocab: int = PAPER_VOCAB,
    prefix_tokens: int | None = None,
    preset: PresetName = "serving",
    engine: EngineName | None = None,
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
    price_per_hour: float | None = None,
    watts: float | None = None,
    train_gpu: str | Device | None = None,
    train_utilisation: float | None = None,
    train_price_per_hour: float | None = None,
    law: str | Law | None = None,
) -> Plan | LifetimePlan:
    """Find the best N and P within limits on memory, latency and training, with probabilities that they are best.

    N is continuous: decoders have real-valued widths. Without `loss`, the plan minimises the loss within the limits;
    with `loss`, it minimises the cost of reaching that loss. With `loss` and `serve_tokens`, it finds the N, P and D
    with the lowest cost of training and of serving that many tokens together (arXiv 2401.00448 for P = 1).

    Args:
        fit: A fit, or the file of a saved one. With `serve_tokens` also the name of published constants: "hoffmann",
            "sardana" or "besiroglu"; or a law such as "joint", with `constants`.
        memory: Limit on memory, in bytes or as "4GB" or "4GiB"; the memory of the device is always a limit.
        latency: Limit on the time of a whole request, in seconds or as "500ms".
        ttft: Limit on the time to the first token, in seconds or as "500ms".
        tpot: Limit on the time per output token, in seconds or as "30ms".
        train_flops: Limit on training compute in FLOPs: 6·N·D, times P with streams.
        loss: Loss to reach, in nats per token.
        by: Cost to minimise, with `loss`: "latency" (the default), "ttft", "tpot", "memory" or "training"; with
            `serve_tokens` "flops" (the default), "seconds" of devices or "money".
        serve_tokens: Tokens to serve over the model's life, of prompts and generated, as a number or "2T".
        constants: All constants of a law without a fit, by name, for `serve_tokens`.
        P: Numbers of streams to choose from; by default the powers of two up to `max_P`.
        max_P: The largest P, if `P` is not given.
        gpu: Device from `list_hardware` or from `hardware`.
        batch: Concurrent requests.
        tokens_in: Prompt tokens per request.
        tokens_out: Generated tokens per request.
        D: Training tokens; by default those of the runs, the largest if there are several.
        second_stage_fraction: Fraction of the training tokens that streams are trained on, after a plain first stage.
        shapes: Shapes of decoders: "paper" (all with `layers` layers) or "ladder" (narrow ones are shallower).
        layers: Decoder layers; with the ladder, the maximum.
        heads: Attention heads.
        kv_heads: Key/value heads.
        vocab: Vocabulary size.
        prefix_tokens: Prefix length of each stream.
        preset: Defaults of other arguments: "serving" (roofline, 512 tokens in and 128 out) or "parscale"
            (llm-analysis, 64 in and out).
        engine: Cost model: "llm-analysis" or "roofline". The roofline replaces llm-analysis where it does not support
            the device or precision.
        hardware: YAML file with devices of your own.
        weights: Storage format of the weights: a name from `scalelab.cost.formats.FORMATS`, or bits per weight such as
            4.5.
        kv: Storage format of the KV cache and prefixes; by default fp32 with fp32 weights, else bf16.
        compute: Precision of matrix products; by default fp32 with fp32 weights, else bf16.
        flops_efficiency: Achieved fraction of the peak FLOP/s, as for `price`.
        memory_efficiency: Achieved fraction of the peak memory bandwidth, as for `price`.
        runtime: Inference engine: "graphs" (TensorRT-LLM and others that capture graphs), "vllm", "llama.cpp" or
            "eager"; by default set by the device's class.
        launch_us: Overhead per kernel launch in µs; by default set by the device's class and the runtime.
        reserve: Memory used by driver and engine, in bytes or as "2GiB"; by default set by the device's class.
        tensor_parallel: Devices in a tensor-parallel group on one node; by default 1.
        price_per_hour: Price of one device in US dollars per hour; by default from the hardware table.
        watts: Power draw of one device in W; by default its limit in the hardware table.
        train_gpu: Device for training, by default an H100; its days convert training FLOPs into time.
        train_utilisation: Share of the 16-bit peak of `train_gpu` that training reaches, 0.4 by default, for
            `serve_tokens` in seconds or money.
        train_price_per_hour: Price of one training device in US dollars per hour, for `serve_tokens`; by default from
            the hardware table.
        law: One of the laws of the fit, to use alone instead of their average; or the law of a saved fit, if it is your
            own.

    Returns:
        The plan, with `serve_tokens` a `LifetimePlan`; its `winner` is None if nothing is within the limits.

    Raises:
        UsageError: An argument is wrong; `argument` names it.
        DataError: The file of the fit cannot be used.
    """
    limits = Limits(
        None if memory is None else memory_bytes(memory),
        None if latency is None else seconds(latency),
        None if train_flops is None else one_count(train_flops, "train_flops"),
        None if ttft is None else seconds(ttft, "ttft"),
        None if tpot is None else seconds(tpot, "tpot"),
    )
    if loss is not None and not 0 < loss < float("inf"):
        raise UsageError("must be above 0, in nats per token", argument="loss", value=loss)
    lifetime = serve_tokens is not None
    if not lifetime:
        given = {"constants": constants, "train_utilisation": train_utilisation}
        _check_lifetime(fit, by, given | {"train_price_per_hour": train_price_per_hour})
    if by is not None and loss is None:
        raise UsageError("needs a loss to reach: give `loss` as well", argument="by", value=by)
    if not 1 <= max_P <= 2**20:
        raise UsageError("choose between 1 and 1,048,576", argument="max_P", value=max_P)
    if shapes not in SHAPES:
        raise choice_error("shapes", shapes, SHAPES)
    check_sizes(layers=layers, heads=heads, kv_heads=kv_heads, vocab=vocab)
    chosen = fit if is_published(fit, constants) and not isinstance(fit, FitResult) else _fit_of(fit, law)
    used = (flops_efficiency, memory_efficiency, runtime, launch_us, reserve, tensor_parallel, price_per_hour, watts)
    device, precision = choose_device(gpu, hardware, *used), Precision(str(weights), kv, compute)
    train_on = choose_device(train_gpu or TRAINER, hardware, argument="train_gpu")
    given = preset_of(preset)
    base = decoder(64 * heads, layers=layers, heads=heads, kv_heads=kv_heads, vocab=vocab, prefix_tokens=prefix_tokens)
    workload = Workload(
        batch,
        given.tokens_in if tokens_in is None else tokens_in,
        given.tokens_out if tokens_out is None else tokens_out,
    )
    found = choose_engines(engine or given.engine, base, workload, device, precision)
    (name,) = found.engines
    streams = whole_numbers(P, "P") if P is not None else tuple(2**i for i in range(max_P.bit_length()))
    notes = (*([found.note] if found.note else []), *device_notes(device, precision, name))
    if serve_tokens is not None:
        belief, convention = belief_of(chosen, constants)
        bounds = zip(SERVED_LIMITS, (limits.memory_bytes, limits.latency_s, limits.ttft_s, limits.tpot_s), strict=True)
        serving = Serving(
            Shapes(base, shapes == "ladder", convention),
            workload,
            price_by(name, device, precision),
            device,
            {key: value for key, value in bounds if value is not None},
        )
        planned = lifetime_plan(
            belief,
            serving,
            serve_tokens,
            loss,
            by,
            streams,
            second_stage_fraction,
            tokens_in is not None or tokens_out is not None,
            train_on,
            train_utilisation,
            train_price_per_hour,
            {"D": D, "train_flops": train_flops},
        )
        used = planned.costs.capped
        return replace(
            planned,
            priced_by=priced_by(name, device, precision) if used else "",
            price_notes=notes if used else (),
        )
    assert isinstance(chosen, FitResult)
    problem = Problem(
        fit=chosen,
        shapes=Shapes(base, shapes == "ladder", chosen.options.convention),
        workload=workload,
        price=price_by(name, device, precision),
        limits=limits,
        D=tokens_of(chosen, None if D is None else one_count(D, "D")),
        second_stage=second_stage_fraction,
    )
    made = solve(problem, streams, device, loss, by or "latency", train_on)
    binary = "i" in memory.lower() if isinstance(memory, str) else given.binary
    return replace(
        made,
        priced_by=priced_by(name, device, precision),
        binary=binary,
        trainer=train_on.gpu,
        server=device.gpu,
        price_notes=notes,
    )


def _check_lifetime(fit: FitResult | str | Path, by: str | None, given: Mapping[str, object]) -> None:
    """Raise `UsageError` for what only a lifetime plan takes."""
    if by in UNITS:
        raise UsageError("is a cost of a model's life: give `serve_tokens` as well", argument="by", value=by)
    for name, value in given.items():
        if value is not None:
            raise UsageError("is for lifetime plans: give `serve_tokens` as well", argument=name)
    if is_published(fit, None):
        raise UsageError(f"{fit}: published constants are for lifetime plans: give `serve_tokens`, or a saved fit")


def _fit_of(fit: FitResult | str | Path, law: str | Law | None) -> FitResult:
    if isinstance(fit, FitResults):
        raise UsageError(f"has {len(fit)} groups; choose one, such as {next(iter(fit))!r}", argument="fit")
    if isinstance(fit, FitResult):
        return choose(fit, law)
    if str(fit) in LAWS and not Path(fit).exists():
        raise UsageError(f"{fit}: a law, not a saved fit; fit it first, or give `serve_tokens` and its `constants`")
    return open_fit(fit, law)
