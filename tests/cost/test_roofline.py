"""The roofline engine against brute force, limits, and what real models compute and keep."""

import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from scalelab.architecture import Architecture
from scalelab.cli import main
from scalelab.cost import Device, Workload
from scalelab.cost.engines import ENGINES, get_engine
from scalelab.cost.families import served_from_config
from scalelab.cost.formats import FORMATS, KV_BITS
from scalelab.cost.hardware import WIDER, Hardware, find_hardware, profile_text, read_hardware
from scalelab.cost.kernels import experts_touched, kernels
from scalelab.cost.llm_engine import price as paper_price
from scalelab.cost.rates import Kernel, find_rates
from scalelab.cost.request import Precision
from scalelab.cost.roofline import (
    _sum_of_higher,
    activation_bytes,
    cache_bytes,
    decode_s,
    decode_step_s,
    prefill_s,
    price,
)
from scalelab.cost.shape import Layer, ServedModel, as_served
from scalelab.errors import UsageError
from scalelab.model import add_streams
from tests.support.families import make, tokens
from tests.support.flops import counted_flops
from tests.support.paths import DATA

PAPER = Architecture(2560, 13824, 36, 16, 2, 151_936)
SMALL = Architecture(64, 160, 3, 4, 2, 257)
ALIKE = {"fp32": 4.0, "bf16": 2.0, "q8_0": 8.5 / 8, "8": 1.0, "4.5bpw": 4.5 / 8}  # bytes, the same of all weights


def box(flops=1e14, bandwidth=1e12, memory=2**40, launch=0.0):
    """A device all of whose figures are reached."""
    hardware = Hardware(
        "box", {"fp32": flops / 8, "bf16": flops, "int8": 2 * flops}, bandwidth, memory, launch_s=launch
    )
    return Device("box", 1.0, 1.0, hardware)


def flops_of(model, batch, length, cached=0):
    return sum(k.times * k.flops for k in kernels(model, batch, length, cached, find_rates(box(), Precision())))


# What real models do


def attention_flops(query, key, *args, out_shape=None, **kwargs):
    """Two products of queries [rows, heads, T, head_dim] with keys and values [rows, KV heads, S, head_dim]."""
    rows, heads, length, head_dim = query
    return 4 * rows * heads * length * key[2] * head_dim


def run_and_count(model, *args, **kwargs):
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which the counter does not know
    counter = FlopCounterMode(display=False, custom_mapping={kernel: attention_flops})
    with torch.no_grad(), counter:
        output = model(*args, **kwargs)
    return counted_flops(counter), output


@pytest.mark.parametrize("P", [1, 2, 4])
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma", "gpt2", "gpt_neox", "olmo2", "qwen3", "phi3"])
def test_flops_are_those_that_torch_counts(family, P):
    model = add_streams(make(family), P, prefix_tokens=5) if P > 1 else make(family)
    served = served_from_config(json.loads(model.config.to_json_string()), "config.json")
    assert served.P == P
    B, T = 2, 9
    real, output = run_and_count(model, tokens(B, T), use_cache=True, logits_to_keep=1)
    layer, count = served.layers[0]
    # The counter takes every query for every key; ours leaves out what causality hides.
    hidden_pairs = T * T - T * (T + 1) / 2
    masked = 4 * layer.heads * layer.head_dim * P * B * hidden_pairs * count
    assert flops_of(served, B, T) + masked == real
    real, output = run_and_count(model, tokens(B, 1), past_key_values=output.past_key_values, use_cache=True)
    assert flops_of(served, B, 1, cached=T) == real


@pytest.mark.parametrize("P", [1, 3])
@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])
def test_memory_is_what_a_real_model_holds(family, P):
    model = add_streams(make(family), P, prefix_tokens=5) if P > 1 else make(family)
    served = served_from_config(json.loads(model.config.to_json_string()), "config.json")
    work = Workload(batch=2, tokens_in=7, tokens_out=4)
    cost = price(served, work, box(), Precision("fp32"))
    held = sum(p.nbytes for p in model.parameters())
    assert cost.weight_bytes + cost.prefix_bytes + cost.aggregator_bytes == held
    with torch.no_grad():
        output = model.generate(
            tokens(2, 7), max_new_tokens=4, min_new_tokens=4, do_sample=False, return_dict_in_generate=True
        )
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in output.past_key_values.layers)
    assert cost.kv_cache_bytes == kept


# Limits


def test_nothing_but_arithmetic_takes_time_where_memory_is_infinitely_fast():
    served = as_served(SMALL.with_streams(4))
    fast = box(bandwidth=math.inf)
    rates = find_rates(fast, Precision())
    assert prefill_s(served, 2, 50, rates) == pytest.approx(flops_of(served, 2, 50) / 1e14, rel=1e-12)
    assert decode_step_s(served, 2, 50, rates) == pytest.approx(flops_of(served, 2, 1, 50) / 1e14, rel=1e-12)
    both = price(SMALL, Workload(), box(flops=math.inf, bandwidth=math.inf))
    assert both.latency_s == 0


@pytest.mark.parametrize(("weights", "stored"), ALIKE.items())
def test_a_step_takes_no_less_than_reading_all_weights_once(weights, stored):
    rates = find_rates(box(flops=math.inf), Precision(weights))
    for shape in (PAPER, PAPER.with_streams(8), replace(PAPER, tied_embeddings=False)):
        served = as_served(shape)
        # Of untied embeddings the input's is not read, only its rows; of biases of the aggregator nothing.
        biases = shape.hidden_size + shape.P if shape.P > 1 else 0
        read = served.backbone_params + served.head_params + served.aggregator_params - biases
        floor = read * stored / 1e12
        step = decode_step_s(served, 1, 0, rates)
        assert floor < step < floor * 1.05
    many = [
        decode_step_s(as_served(PAPER), B, 0, rates) / (as_served(PAPER).total_params * stored / 1e12) for B in (1, 64)
    ]
    assert many[0] < many[1]


def test_a_prompt_of_one_token_is_a_step_without_a_past():
    served, rates = as_served(SMALL.with_streams(2)), find_rates(box(), Precision())
    assert prefill_s(served, 3, 1, rates) == decode_step_s(served, 3, 0, rates)
    assert price(SMALL, Workload(1, 5, 1), box()).decode_s == 0


def test_prefixes_are_read_and_attended_to_and_otherwise_free():
    rates = find_rates(box(flops=math.inf), Precision())
    short, long = (as_served(replace(SMALL, P=4, prefix_tokens=n)) for n in (10, 30))
    kv = 2 * 3 * 2 * 16  # keys and values, layers, KV heads, head_dim
    more = decode_step_s(long, 2, 50, rates) - decode_step_s(short, 2, 50, rates)
    assert more == pytest.approx(4 * 2 * 20 * kv * 2 / 1e12, rel=1e-9)
    assert flops_of(long, 2, 7) - flops_of(short, 2, 7) == 4 * (4 * 16) * 3 * (4 * 2) * 7 * 20
    assert cache_bytes(long, 2, 50, rates) == cache_bytes(short, 2, 50, rates)


@pytest.mark.parametrize("aggregation", ["dynamic", "mean", "channel"])
def test_memory_is_additive_in_streams(aggregation):
    shape = replace(SMALL, aggregation=aggregation)
    work = Workload(3, 100, 20)
    plain = price(shape, work, box())
    for P in (2, 4, 8):
        cost = price(shape.with_streams(P), work, box())
        assert cost.weight_bytes == plain.weight_bytes
        assert cost.kv_cache_bytes == P * plain.kv_cache_bytes
        assert cost.prefix_bytes == P * 48 * 2 * 3 * 2 * 16 * 2
        parameters = {"dynamic": P * 64**2 + 64 + 64 * P + P, "mean": 0, "channel": P * 64}[aggregation]
        assert cost.aggregator_bytes == 2 * parameters
        assert cost.memory_bytes == pytest.approx(
            plain.weight_bytes + cost.aggregator_bytes + cost.prefix_bytes + cost.kv_cache_bytes + cost.activation_bytes
        )


def test_a_launch_costs_once_for_each_kernel():
    work, P = Workload(2, 10, 6), 4
    with_launch, without = (price(SMALL.with_streams(P), work, box(launch=t)) for t in (1e-3, 0.0))
    each = 1 + 9 * SMALL.num_layers + 1 + 5 + 1  # embedding, layers, last norm, mixture, head
    assert with_launch.prefill_s - without.prefill_s == pytest.approx(each * 1e-3)
    assert with_launch.decode_s - without.decode_s == pytest.approx(5 * each * 1e-3)


def test_a_window_bounds_cache_and_reading():
    layer = Layer(4, 2, 16, 160, vectors=128)
    full = ServedModel(64, 257, ((layer, 2),), 64)
    local = replace(full, layers=((replace(layer, window=10), 2),))
    rates = find_rates(box(), Precision())
    assert cache_bytes(local, 1, 8, rates) == cache_bytes(full, 1, 8, rates)
    assert cache_bytes(local, 1, 500, rates) == cache_bytes(full, 1, 10, rates)
    assert decode_step_s(local, 1, 500, rates) == decode_step_s(full, 1, 9, rates)
    visible = np.tril(np.ones((30, 30))) - np.tril(np.ones((30, 30)), -10)
    scores = flops_of(local, 1, 30) - flops_of(replace(full, layers=((replace(layer, window=1), 2),)), 1, 30)
    assert scores == 4 * 4 * 16 * 2 * (visible.sum() - 30)


# Sums, experts


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.floats(0, 10), st.floats(0, 10)),
    st.tuples(st.floats(0, 10), st.floats(0, 10)),
    st.integers(0, 40),
    st.integers(0, 60),
)
def test_the_sum_of_the_higher_of_two_lines(one, two, first, last):
    expected = sum(max(one[0] + one[1] * s, two[0] + two[1] * s) for s in range(first, last + 1))
    assert _sum_of_higher(one, two, first, last) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    P=st.sampled_from([1, 2, 4]),
    batch=st.integers(1, 5),
    cached=st.integers(1, 60),
    steps=st.integers(0, 60),
    windows=st.lists(st.one_of(st.none(), st.integers(1, 80)), min_size=1, max_size=3),
    heads=st.sampled_from([2, 16, 256]),
    ratio=st.floats(0.1, 1000),
    launch=st.sampled_from([0.0, 1e-6]),
)
def test_decoding_is_the_sum_over_its_steps(P, batch, cached, steps, windows, heads, ratio, launch):
    layers = tuple((Layer(heads, 2, 16, 160, vectors=128, window=w), 2) for w in windows)
    model = ServedModel(64, 257, layers, 64, P=P)
    rates = find_rates(box(flops=ratio * 1e12, launch=launch), Precision())
    expected = sum(decode_step_s(model, batch, cached + t, rates) for t in range(steps))
    assert decode_s(model, batch, cached, steps, rates) == pytest.approx(expected, rel=1e-9, abs=1e-30)


@pytest.mark.parametrize(("experts", "chosen", "count"), [(8, 2, 1), (8, 2, 5), (8, 2, 64), (64, 6, 30), (4, 4, 3)])
def test_experts_that_are_touched_are_those_of_a_simulation(experts, chosen, count):
    rng = np.random.default_rng(0)
    draws = rng.random((4000, count, experts)).argsort(-1)[..., :chosen].reshape(4000, -1)
    different = [len(set(row)) for row in draws]
    error = np.std(different) / 4000**0.5
    assert experts_touched(experts, chosen, count) == pytest.approx(np.mean(different), abs=4 * error + 1e-6)


def test_experts_at_the_ends():
    assert experts_touched(128, 8, 1) == pytest.approx(8, rel=1e-12)
    assert experts_touched(128, 8, 1e9) == 128
    assert experts_touched(4, 4, 1) == 4


def test_a_mixture_of_experts_reads_the_experts_touched_and_computes_those_chosen():
    dense = replace(SMALL, intermediate_size=320)
    routed = replace(SMALL, num_experts=8, experts_per_token=2)
    biases = 64 + 2 * 2 * 16
    router = 64 * 8
    for B in (1, 4):
        gap = flops_of(as_served(routed), B, 1) - flops_of(as_served(dense), B, 1)
        assert gap == 2 * B * router * 3
        rates = find_rates(box(flops=math.inf), Precision())
        served = as_served(routed)
        read = sum(k.times * k.bytes for k in kernels(served, B, 1, 0, rates))
        everything = sum(
            k.times * k.bytes for k in kernels(as_served(replace(routed, experts_per_token=8)), B, 1, 0, rates)
        )
        spared = 3 * (8 - experts_touched(8, 2, B)) * 3 * 64 * 160 * 2
        # Besides weights, eight experts move more activations than two.
        moved = 3 * B * 6 * (64 + 2 * 160 + 3 * 160 + 160 + 64) * 2
        assert everything - read == pytest.approx(spared + moved, rel=1e-9)
    assert price(routed, Workload(), box()).weight_bytes == 2 * routed.total_params
    assert as_served(routed).backbone_params == as_served(
        replace(dense, intermediate_size=8 * 160)
    ).backbone_params + 3 * (router - biases)


# Precision


def test_each_precision_acts_where_it_should():
    work, shape = Workload(4, 100, 50), PAPER.with_streams(4)
    base = price(shape, work, box())
    for name, stored in ALIKE.items():
        cost = price(shape, work, box(), Precision(weights=name, kv="bf16", compute="bf16"))
        assert cost.weight_bytes == base.weight_bytes * stored / 2
        assert cost.aggregator_bytes == base.aggregator_bytes * stored / 2
        assert (cost.kv_cache_bytes, cost.prefix_bytes) == (base.kv_cache_bytes, base.prefix_bytes)
        assert cost.activation_bytes == base.activation_bytes
    for name, stored in {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0, "int8": 8.5 / 8, "int4": 4.5 / 8}.items():
        cost = price(shape, work, box(), Precision(kv=name))
        assert cost.kv_cache_bytes == base.kv_cache_bytes * stored / 2
        assert cost.prefix_bytes == base.prefix_bytes * stored / 2
        assert cost.weight_bytes == base.weight_bytes


@pytest.mark.parametrize(
    ("precision", "matrix", "attention", "kv", "activation"),
    [
        (Precision(), 1.0, 1.0, 2, 2),
        (Precision("fp32"), 1 / 8, 1 / 8, 4, 4),
        (Precision("int4"), 1.0, 1.0, 2, 2),  # widened to 16 bits on the way in
        (Precision("int8", "int8", "int8"), 2.0, 1.0, 8.5 / 8, 2),
        (Precision("fp8", "fp8", "fp8"), 1.0, 1.0, 1, 2),  # the box has no units for it
        (Precision("fp32", compute="tf32"), 1 / 8, 1 / 8, 4, 4),
        (Precision("bf16", compute="fp32"), 1 / 8, 1 / 8, 2, 4),
    ],
)
def test_rates_follow_the_rules_of_precision(precision, matrix, attention, kv, activation):
    rates = find_rates(box(), precision)
    assert rates.matrix_flops_per_s == matrix * 1e14
    assert rates.attention_flops_per_s == attention * 1e14
    assert (rates.kv_bytes, rates.activation_bytes) == (kv, activation)


def test_efficiencies_scale_what_is_reached():
    work = Workload(8, 512, 64)
    full = price(PAPER, work, box())
    half = price(PAPER, work, replace(box(), flops_efficiency=0.5, memory_efficiency=0.5))
    assert half.latency_s == pytest.approx(2 * full.latency_s, rel=1e-12)
    assert half.memory_bytes == full.memory_bytes


@pytest.mark.parametrize(
    ("name", "values"), [("weights", {"weights": "x"}), ("kv", {"kv": "tf32"}), ("weights", {"weights": "0.5"})]
)
def test_unknown_precisions_are_refused(name, values):
    with pytest.raises(UsageError, match=f"{name}=.*: (did you mean .*)?choose one of fp32, bf16, fp8, int8, int4"):
        Precision(**values)


# Sanity over everything

_LARGER = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_layers": 4,
    "vocab_size": 999,
    "P": 8,
    "prefix_tokens": 60,
    "num_kv_heads": 4,
}


@pytest.mark.parametrize("name", _LARGER)
def test_a_larger_model_costs_no_less(name):
    small = replace(SMALL, P=4)
    for work in (Workload(), Workload(8, 300, 20)):
        before, after = (price(a, work, box()) for a in (small, replace(small, **{name: _LARGER[name]})))
        assert after.memory_bytes > before.memory_bytes
        assert after.prefill_s >= before.prefill_s
        assert after.decode_s > before.decode_s


def test_more_work_and_slower_devices_cost_no_less():
    def cost(batch=2, tokens_in=64, tokens_out=16, **device):
        return price(PAPER.with_streams(2), Workload(batch, tokens_in, tokens_out), box(**device))

    base = cost()
    for change in ({"batch": 3}, {"tokens_in": 65}, {"tokens_out": 17}):
        assert cost(**change).memory_bytes > base.memory_bytes
        assert cost(**change).latency_s > base.latency_s
    for change in ({"flops": 1e13}, {"bandwidth": 1e11}, {"launch": 1e-6}):
        assert cost(**change).latency_s > base.latency_s
        assert cost(**change).memory_bytes == base.memory_bytes


@settings(max_examples=150, deadline=None)
@given(
    heads=st.sampled_from([1, 2, 8]),
    kv_share=st.sampled_from([1, 2]),
    head_dim=st.integers(1, 256),
    width=st.floats(1, 1e5),
    hidden=st.floats(1, 2e4),
    window=st.one_of(st.none(), st.integers(1, 10_000)),
    experts=st.sampled_from([(0, 0, 0, False), (8, 2, 0, False), (128, 8, 0, False), (64, 4, 512, True)]),
    P=st.integers(1, 64),
    work=st.builds(Workload, st.integers(1, 4096), st.integers(1, 10**6), st.integers(1, 10**6)),
    precision=st.builds(Precision, *(st.sampled_from(list(names)) for names in (FORMATS, KV_BITS, WIDER))),
)
def test_prices_are_finite_and_positive(heads, kv_share, head_dim, width, hidden, window, experts, P, work, precision):
    names = ("num_experts", "experts_per_token", "shared_width", "shared_gate")
    layer = Layer(heads * kv_share, heads, head_dim, width, window=window, **dict(zip(names, experts, strict=True)))
    cost = price(ServedModel(hidden, 32_000, ((layer, 7),), hidden, P=P), work, Device("rtx-4090"), precision)
    for value in (cost.memory_bytes, cost.activation_bytes, cost.prefill_s, cost.kv_cache_bytes, cost.weight_bytes):
        assert math.isfinite(value)
        assert value > 0
    assert math.isfinite(cost.decode_s)
    assert (cost.decode_s > 0) == (work.tokens_out > 1)
    assert (cost.prefix_bytes > 0) == (P > 1)


def test_out_of_memory_is_said():
    assert price(PAPER, Workload(), box(memory=9 * 2**30)).fits
    assert not price(PAPER, Workload(), box(memory=8 * 2**30)).fits
    assert price(PAPER, Workload(), box(memory=8 * 2**30), Precision("8")).fits


def test_the_two_engines_agree_where_they_should():
    """Weights to the biases; plain decoding at batch 1, which is reading weights, to a few percent."""
    bare = replace(find_hardware("a100-sxm-80gb"), kind="")  # its roofs, without what engines lose
    ours = price(PAPER, Workload(1, 64, 64), Device("bare", 0.7, 0.9, bare))
    theirs = paper_price(PAPER, Workload(1, 64, 64), Device())
    assert ours.weight_bytes == pytest.approx(theirs.weight_bytes, rel=1e-4)
    assert ours.decode_s / 63 == pytest.approx(theirs.decode_s / 64, rel=0.02)
    assert ours.kv_cache_bytes == pytest.approx(theirs.kv_cache_bytes * 127 / 128)
    assert ours.prefill_s == pytest.approx(theirs.prefill_s, rel=0.1)


def test_activations_peak_in_the_widest_moment():
    rates = find_rates(box(), Precision())
    wide = replace(PAPER, vocab_size=100)
    assert activation_bytes(as_served(wide), 2, 100, rates) == 2 * 100 * (2 * 2560 + 3 * 13824) * 2
    shared = Layer(20, 2, 128, 3000, num_experts=8, experts_per_token=4, shared_width=1824)  # 13824 in all
    model = ServedModel(2560, 100, ((shared, 36),), 2560)
    assert activation_bytes(model, 2, 100, rates) == 2 * 100 * (2 * 2560 + 3 * 13824) * 2
    narrow = replace(SMALL, vocab_size=10**6)
    assert activation_bytes(as_served(narrow), 2, 10, rates) == 2 * 10**6 * 2


# Engines by name, and the command


def test_engines_by_name():
    assert set(ENGINES) == {"llm-analysis", "roofline"}
    cost = get_engine("llm-analysis")(PAPER, Workload(), Device())
    assert cost == paper_price(PAPER, Workload(), Device())
    same = get_engine("llm-analysis")(as_served(PAPER), Workload(), Device())
    assert same == replace(cost, architecture=same.architecture)
    with pytest.raises(UsageError, match="engine='abacus': choose one of llm-analysis, roofline"):
        get_engine("abacus")
    with pytest.raises(
        UsageError, match="gpu='rtx-4090': llm-analysis does not have this device; use `engine='roofline'`"
    ):
        get_engine("llm-analysis")(PAPER, Workload(), Device("rtx-4090"))
    with pytest.raises(UsageError, match="llm-analysis prices only bf16 throughout, not int4"):
        get_engine("llm-analysis")(PAPER, Workload(), Device(), Precision("int4"))


def run_json(capsys, *words):
    assert main(["cost", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_both_engines_stand_in_one_table(capsys):
    rows = run_json(capsys, "--hidden", "2560", "--P", "1", "2", "--batch", "1", "4", "--engine", "both")
    keys = [(row["batch"], row["engine"], row["P"]) for row in rows]
    assert keys == list(itertools.product((1, 4), ("llm-analysis", "roofline"), (1, 2)))
    assert main(["cost", "--hidden", "2560", "--P", "2", "--engine", "both"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    named = [words for words in lines if {"llm-analysis", "roofline"} & set(words)]
    assert [words[:3] if words[0].isdigit() else words[:1] for words in named] == [
        ["1", "4.35B", "llm-analysis"],
        ["roofline"],
        ["2", "4.37B", "llm-analysis"],
        ["roofline"],
    ]


def test_a_model_is_priced_from_its_config_with_its_own_prefixes(capsys):
    folder = str(DATA / "parscale" / "P2_hot")
    rows = run_json(capsys, "--model", folder, "--P", "1", "2", "4", "--engine", "roofline", "--gpu", "apple-m2")
    kv = 2 * 3 * 2 * 16 * 2
    assert [row["prefix_bytes"] for row in rows] == [0, 2 * 48 * kv, 4 * 48 * kv]
    shorter = run_json(capsys, "--model", folder, "--P", "2", "--prefix-tokens", "5", "--engine", "roofline")
    assert shorter[0]["prefix_bytes"] == 2 * 5 * kv
    theirs = run_json(capsys, "--model", folder, "--P", "2")
    assert theirs[0]["engine"] == "llm-analysis"


@pytest.mark.parametrize("engine", ["llm-analysis", "roofline", "both"])
def test_the_heading_names_the_model_with_any_engine(capsys, engine):
    assert main(["cost", "--model", str(DATA / "parscale" / "P1"), "--engine", engine]) == 0
    heading = capsys.readouterr().out.splitlines()[0]
    assert heading.startswith("qwen2_parscale: hidden 64, intermediate 160, 3 layers; batch 1, 64 tokens in"), heading


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nowhere"], "nowhere: no config.json found"),
        (["--model", str(DATA / "parscale" / "P1"), "--layers", "3", "--hidden", "64"], "leave out --hidden, --layers"),
        (["--hidden", "1024", "--engine", "abacus"], "--engine abacus: choose one of llm-analysis, roofline"),
        (
            ["--hidden", "1024", "--engine", "roofline", "--gpu", "abacus"],
            "--gpu abacus: unknown; scalelab cost --list-hardware",
        ),
        (["--hidden", "1024", "--tokens-in", "9" * 400], "--tokens-in: must be at most 1,000,000,000,000"),
        (["--hidden", "1024", "--kv", "int3"], "--kv int3: did you mean int8? choose one of"),
        (["--hidden", "1024", "--prefix-tokens", "-1"], "prefix_tokens must not be negative"),
        (["--model", str(DATA / "parscale" / "P1"), "--prefix-tokens", "-1"], "--prefix-tokens -1: must be at least 0"),
    ],
)
def test_bad_requests_are_named(capsys, words, message):
    assert main(["cost", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_own_hardware_serves_both_engines(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("box: {tflops: {fp32: 1, bf16: 2}, bandwidth: 10, memory: 8, source: me, measured: true}")
    words = ("--hidden", "1024", "--hardware", str(file), "--P", "1", "--tokens-in", "2048")
    wide = run_json(capsys, *words, "--engine", "both", "--weights", "fp32")
    narrow = run_json(capsys, *words, "--engine", "both")
    for fp32, bf16 in zip(wide, narrow, strict=True):
        assert fp32["memory_bytes"] == pytest.approx(2 * bf16["memory_bytes"])
        assert fp32["decode_s"] == pytest.approx(2 * bf16["decode_s"], rel=0.01)  # twice the bytes
        assert fp32["prefill_s"] == pytest.approx(2 * bf16["prefill_s"], rel=0.01)  # half the FLOP/s
    file.write_text(file.read_text() + "\nrod: {tflops: {fp32: 1}, bandwidth: 10, memory: 8, source: me}")
    assert main(["cost", *words]) == 2
    assert "--hardware: has several devices; choose one with --gpu: box, rod" in capsys.readouterr().err


def test_a_profile_reads_back_as_it_was_written(tmp_path):
    made = Hardware(
        name="box",
        flops_per_s={"fp32": 1.034e11},
        bytes_per_s=1.717e10,
        memory_bytes=23.5 * 2**30,
        source="measured on a CPU: 1 thread, fp32",
        measured=True,
        launch_s=1.342e-5,
        attention_flops_per_s=4.548e10,
        vector_bytes_per_s=2.296e10,
        row_shares=((1.0, 1.003), (8.0, 0.5767)),
    )
    (tmp_path / "box.yaml").write_text(profile_text(made))
    read = read_hardware(tmp_path / "box.yaml")["box"]
    for name in ("bytes_per_s", "memory_bytes", "launch_s", "attention_flops_per_s", "vector_bytes_per_s"):
        assert getattr(read, name) == pytest.approx(getattr(made, name))
    assert read.flops_per_s == pytest.approx(made.flops_per_s)
    assert (read.row_shares, read.source, read.measured) == (made.row_shares, made.source, True)


def test_a_measured_device_takes_its_own_time_for_each_kind_of_kernel():
    """Each kind by hand: max(FLOPs / s, bytes / s), over the share of its rows, and the launch."""
    hardware = Hardware(
        name="box",
        flops_per_s={"fp32": 1e11},
        bytes_per_s=1e10,
        memory_bytes=2**33,
        launch_s=1e-5,
        attention_flops_per_s=4e10,
        vector_bytes_per_s=2e10,
        row_shares=((1.0, 1.0), (4.0, 0.5), (64.0, 1.0)),
    )
    rates = find_rates(Device("box", 1.0, 1.0, hardware), Precision("fp32"))
    assert rates.seconds(Kernel(2e9, 1e3, kind="matrix", rows=64)) == pytest.approx(2e9 / 1e11 + 1e-5)
    assert rates.seconds(Kernel(2e9, 1e3, kind="matrix", rows=4)) == pytest.approx(2e9 / 1e11 / 0.5 + 1e-5)
    assert rates.seconds(Kernel(1, 4e6, kind="matrix", rows=2)) == pytest.approx(4e6 / 1e10 / 0.75 + 1e-5)
    assert rates.seconds(Kernel(1, 4e6, kind="matrix", rows=0.5, times=3)) == pytest.approx(3 * (4e6 / 1e10 + 1e-5))
    assert rates.seconds(Kernel(4e8, 1e3, kind="attention")) == pytest.approx(4e8 / 4e10 + 1e-5)
    assert rates.seconds(Kernel(4e8, 5e8, kind="attention")) == pytest.approx(5e8 / 1e10 + 1e-5)
    assert rates.seconds(Kernel(0, 4e6)) == pytest.approx(4e6 / 2e10 + 1e-5)


def test_nothing_heavy_is_imported():
    folder = DATA / "parscale" / "P1"
    script = (
        "import sys; from scalelab.cli import main; "
        f"main(['cost', '--model', {str(folder)!r}, '--engine', 'roofline']); "
        "heavy = {'torch', 'transformers', 'llm_analysis', 'pandas', 'scipy'} & set(sys.modules); "
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
