"""Formats, engines, several devices, latents and requests at once: by hand, brute force and limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalelab.architecture import Architecture
from scalelab.cost import Device, Workload
from scalelab.cost.capacity import most_requests
from scalelab.cost.families import served_from_config
from scalelab.cost.formats import FORMATS, weight_format
from scalelab.cost.hardware import Hardware, find_hardware, profile_text, read_hardware
from scalelab.cost.rates import find_rates
from scalelab.cost.request import Precision
from scalelab.cost.roofline import available_bytes, decode_s, decode_step_s, kernels, prefill_s, price
from scalelab.cost.runtime import CLASSES, KERNEL_FLOPS, ROUTING_EXPONENT, ROW_COSTS
from scalelab.cost.shape import as_served
from scalelab.errors import UsageError

DENSE = Architecture(64, 160, 3, 4, 2, 257, tied_embeddings=False)
MIXED = replace(DENSE, num_experts=8, experts_per_token=2)
LATENT = {
    "model_type": "deepseek_v3",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "vocab_size": 500,
    "q_lora_rank": None,
    "kv_lora_rank": 48,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 24,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 2,
}


def box(flops=1e14, bandwidth=1e12, **more):
    """A device all of whose figures are reached."""
    return Device("box", 1.0, 1.0, Hardware("box", {"fp32": flops}, bandwidth, 2**40, **more))


# Formats


@pytest.mark.parametrize("name", FORMATS)
def test_weights_are_held_at_the_width_of_their_kind(name):
    stored, h, vocab = FORMATS[name], 64, 257
    held = price(DENSE, Workload(), box(), Precision(name)).weight_bytes
    ends = vocab * h * (stored.head + stored.embedding)
    assert held * 8 == pytest.approx(as_served(DENSE).backbone_params * stored.matrix + ends)
    tied = price(replace(DENSE, tied_embeddings=True), Workload(), box(), Precision(name)).weight_bytes
    assert held - tied == pytest.approx((ends - vocab * h * stored.tied) / 8)


def test_some_formats_hold_for_experts_alone():
    held = price(MIXED, Workload(), box(), Precision("mxfp4")).weight_bytes
    experts = 3 * 8 * 3 * 64 * 160
    rest = as_served(MIXED).backbone_params - experts
    norm = 64  # the last, which is in no layer with experts
    assert held * 8 == pytest.approx((experts + norm) * 4.25 + (rest - norm) * 16 + 2 * 257 * 64 * 16)


def test_a_step_reads_the_head_at_its_own_width():
    def head_bytes(name):
        rates = find_rates(box(math.inf), Precision(name))
        return list(kernels(as_served(DENSE), 1, 1, 0, rates))[-1].bytes

    activations = (64 + 257) * 2
    assert head_bytes("q4_0") == pytest.approx(257 * 64 * 6.5625 / 8 + activations)
    assert head_bytes("awq") == pytest.approx(257 * 64 * 2 + activations)


def test_any_number_of_bits_is_a_format():
    for text, bits in (("4.5", 4.5), ("3bpw", 3), ("6 bits", 6), ("16", 16)):
        stored = weight_format(text)
        assert {stored.matrix, stored.head, stored.embedding, stored.tied} == {bits}
    for text in ("0", "100", "-3", "four", "", "4.5.1", "inf"):
        with pytest.raises(UsageError, match=r"weights=.*: choose one of"):
            weight_format(text)


# Engines


def test_shares_of_the_class_are_used_and_may_be_given():
    device = Device("apple-m2-ultra")
    mine, found = find_rates(device, Precision()), find_hardware("apple-m2-ultra")
    assert mine.bytes_per_s == CLASSES["apple"].memory * 800e9
    assert mine.matrix_flops_per_s == CLASSES["apple"].flops * found.peak("bf16")
    assert mine.launch_s == CLASSES["apple"].gap_s
    assert mine.routing_exponent == ROUTING_EXPONENT
    given = find_rates(replace(device, memory_efficiency=0.5, flops_efficiency=0.25, launch_s=1e-3), Precision())
    assert (given.bytes_per_s, given.matrix_flops_per_s, given.launch_s) == (400e9, found.peak("bf16") / 4, 1e-3)
    blocks = find_rates(device, Precision("q4_0"))
    assert blocks.matrix_flops_per_s == pytest.approx(KERNEL_FLOPS["blocks"] * mine.matrix_flops_per_s)
    assert blocks.row_costs == ROW_COSTS["blocks"]
    narrow = find_rates(Device("h100-sxm-80gb"), Precision("fp8", compute="fp8"))
    assert narrow.matrix_flops_per_s == pytest.approx(CLASSES["datacentre"].narrow_flops * 1979e12)


def test_engines_differ_by_what_starting_a_kernel_takes():
    def step(runtime, gpu="a100-sxm-80gb"):
        return decode_step_s(as_served(DENSE), 1, 8, find_rates(Device(gpu, runtime=runtime), Precision()))

    assert step("graphs") < step("llama.cpp") < step("vllm") < step("eager")
    count = sum(k.times for k in kernels(as_served(DENSE), 1, 1, 8, find_rates(Device(), Precision())))
    assert step("eager") == pytest.approx(80e-6 * count)  # nothing else takes time here
    assert step(None) == step("graphs")
    # A CPU's program runs its kernels itself: nothing is started ahead.
    assert step("eager", "ryzen-9-7950x") == step("llama.cpp", "ryzen-9-7950x")


def test_starting_kernels_overlaps_with_running_them():
    """A prompt takes as long as its kernels or as starting them: not both."""
    served, overlapping = as_served(replace(DENSE, num_layers=2)), box(1e12, 1e10, launch_s=1e-4, graph_launch_s=1e-6)
    rates = find_rates(overlapping, Precision())
    for tokens in (1, 20_000):
        found = list(kernels(served, 1, tokens, 0, rates))
        work = sum(map(rates.seconds, found))
        starts = 1e-4 * sum(k.times for k in found)
        assert prefill_s(served, 1, tokens, rates) == max(work, starts)
        assert (work > starts) == (tokens > 1)  # both are there
    added = find_rates(box(1e12, 1e10, launch_s=1e-4), Precision())
    assert prefill_s(served, 1, 20_000, added) > prefill_s(served, 1, 20_000, rates)
    graphs = find_rates(replace(overlapping, runtime="graphs"), Precision())
    assert decode_step_s(served, 1, 5, graphs) < decode_step_s(served, 1, 5, rates)


@settings(max_examples=60, deadline=None)
@given(
    cached=st.integers(1, 200),
    steps=st.integers(0, 80),
    launch=st.sampled_from([1e-9, 1e-7, 3e-7, 1e-6, 1e-4]),
    bandwidth=st.floats(1e9, 1e13),
    P=st.sampled_from([1, 4]),
)
def test_decoding_started_ahead_is_the_sum_over_its_steps(cached, steps, launch, bandwidth, P):
    served = as_served(replace(DENSE, P=P))
    rates = find_rates(box(1e13, bandwidth, launch_s=launch, graph_launch_s=1e-9), Precision())
    expected = sum(decode_step_s(served, 2, cached + t, rates) for t in range(steps))
    assert decode_s(served, 2, cached, steps, rates) == pytest.approx(expected, rel=1e-9, abs=1e-30)


@pytest.mark.parametrize("kind", ROW_COSTS)
@pytest.mark.parametrize("gpu", ["rtx-4090", "h100-sxm-80gb", "apple-m4-max", "raspberry-pi-5", "dgx-spark"])
def test_more_streams_never_take_less_time(kind, gpu):
    weights = {"float": "bf16", "fused": "awq", "blocks": "q4_0"}[kind]
    model = Architecture(2048, 8192, 16, 32, 8, 128_256)
    steps = [
        price(model.with_streams(P), Workload(1, 64, 8), Device(gpu), Precision(weights)).tpot_s
        for P in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
    ]
    assert steps == sorted(steps)


def test_streams_on_four_bits_cost_what_tables_of_rows_say():
    """8B at 4 bits on an RTX 3090: 1.12, 1.33 and 2.15 times one row (llama.cpp); they were priced as free."""
    model = Architecture(4096, 14336, 32, 32, 8, 128_256, tied_embeddings=False)
    device, precision = Device("rtx-3090"), Precision("q4_0")
    one, *more = (price(model.with_streams(P), Workload(1, 2, 8), device, precision).tpot_s for P in (1, 2, 4, 8))
    for found, published in zip(more, (1.12, 1.33, 2.15), strict=True):
        assert found / one == pytest.approx(published, rel=0.2)


def test_a_profile_keeps_the_time_to_start_a_captured_kernel(tmp_path):
    made = Hardware("box", {"fp32": 1e12}, 1e11, 2**33, "me", (), True, launch_s=5e-5, graph_launch_s=2e-6)
    (tmp_path / "box.yaml").write_text(profile_text(made))
    read = read_hardware(tmp_path / "box.yaml")["box"]
    assert (read.launch_s, read.graph_launch_s, read.kind) == (pytest.approx(5e-5), pytest.approx(2e-6), "")


def test_memory_is_what_programs_are_given():
    gib = 2**30
    assert available_bytes(Device("rtx-4090")) == (24 - CLASSES["geforce"].reserve_gib) * gib
    assert available_bytes(Device("l40s", reserve_bytes=0.0)) == 45.0 * gib
    assert available_bytes(Device("apple-m4-max", reserve_bytes=gib)) == 95 * gib
    tiny = Hardware("tiny", {"fp32": 1e12}, 1e11, 4 * gib, kind="datacentre")
    assert available_bytes(Device("tiny", hardware=tiny)) == 2 * gib  # half, rather than the class's reserve


# Latent attention


def test_folded_latents_are_read_as_they_are_kept():
    """By hand: scores against latent and rotated key, the latent as values, W_UK and W_UV once a query."""
    model = served_from_config(LATENT, "latent")
    folded = find_rates(box(graph_launch_s=0.0, launch_s=0.0), Precision())
    folded = replace(folded, folds_latent=True)
    unfolded = replace(folded, folds_latent=False)
    heads, latent, rotated, flat, values, cached, B = 8, 48, 8, 16, 24, 99, 3

    def attention(rates):
        return next(k for k in kernels(model, B, 1, cached, rates) if k.kind == "attention")

    keys = cached + 1
    expected = B * heads * (2 * keys * (latent + rotated) + 2 * keys * latent + 2 * latent * (flat + values))
    assert attention(folded).flops == pytest.approx(expected)
    queries = 2 * B * heads * (flat + rotated + values) / 2 * 2
    read = B * keys * (latent + rotated) * 2 + latent * heads * (flat + values) * 2
    assert attention(folded).bytes == pytest.approx(queries + read)
    assert attention(folded).bytes < attention(unfolded).bytes / 5
    assert decode_s(model, B, 40, 30, folded) == pytest.approx(
        sum(decode_step_s(model, B, 40 + t, folded) for t in range(30)), rel=1e-9
    )
    assert prefill_s(model, B, 50, folded) == prefill_s(model, B, 50, unfolded)
    assert find_rates(Device("h100-sxm-80gb"), Precision()).folds_latent
    assert not find_rates(Device("h100-sxm-80gb", runtime="eager"), Precision()).folds_latent


# Several devices


def test_two_devices_read_half_each_and_add_up_twice_a_layer():
    model, work = Architecture(4096, 14336, 32, 32, 8, 32_000), Workload(4, 100, 50)
    linked = Hardware("box", {"fp32": 1e14}, 1e12, 2**35, link_bytes_per_s=1e11)
    one, two = (price(model, work, Device("box", 1.0, 1.0, linked, tensor_parallel=t)) for t in (1, 2))
    assert two.weight_bytes == one.weight_bytes
    assert two.kv_cache_bytes == one.kv_cache_bytes
    assert two.device_bytes == 2 * one.device_bytes
    sent = 2 * (1 / 2) * 4 * 100 * 4096 * 2  # bytes of an all-reduce of the prompt: 2 (t-1)/t of activations
    reduces = 2 * 32 * (sent / (0.75 * 1e11) + 10e-6)
    rates = find_rates(Device("box", 1.0, 1.0, linked), Precision())
    vectors = sum(rates.seconds(k) for k in kernels(as_served(model), 4, 100, 0, rates) if k.kind == "vector")
    assert two.prefill_s == pytest.approx((one.prefill_s - vectors) / 2 + vectors + reduces)
    assert two.decode_s < one.decode_s
    assert (two.watts, two.price_per_hour) == (None, None)
    rented = [price(model, work, Device("h100-sxm-80gb", tensor_parallel=t)).price_per_hour for t in (1, 4)]
    assert rented[1] == 4 * rented[0]


def test_a_kv_head_is_kept_by_every_device_that_needs_it():
    model, work = Architecture(4096, 14336, 32, 32, 2, 32_000), Workload(1, 100, 50)
    kept = [price(model, work, replace(box(), tensor_parallel=t)).kv_cache_bytes for t in (1, 2, 4, 8)]
    assert [k / kept[0] for k in kept] == [1, 1, 2, 4]
    with pytest.raises(UsageError, match="32 heads cannot be divided among 5 devices"):
        price(model, work, replace(box(), tensor_parallel=5))


# Units, and requests at once


def test_units_are_those_of_people_who_serve():
    cost = price(DENSE, Workload(8, 100, 51), Device("h100-sxm-80gb", watts=500, price_per_hour=3.6))
    assert cost.ttft_s == cost.prefill_s
    assert cost.tpot_s * 50 == pytest.approx(cost.decode_s)
    assert cost.tokens_per_s == pytest.approx(8 * 51 / cost.latency_s)
    assert cost.request_tokens_per_s == pytest.approx(50 / cost.decode_s)
    seconds = 1e6 / cost.tokens_per_s
    assert cost.kwh_per_mtoken == pytest.approx(500 * seconds / 3.6e6)
    assert cost.price_per_mtoken == pytest.approx(3.6 * seconds / 3600)
    low, high = cost.interval(cost.tpot_s)
    assert high / cost.tpot_s == pytest.approx(cost.tpot_s / low) == pytest.approx(math.exp(1.96 * cost.spread))
    assert price(DENSE, Workload(), box()).interval(1.0) is None


def test_a_device_without_price_or_power_has_no_money_and_no_energy():
    cost = price(DENSE, Workload(), box())
    assert (cost.kwh_per_mtoken, cost.price_per_mtoken) == (None, None)


@settings(max_examples=40, deadline=None)
@given(
    memory=st.floats(1e5, 1e9),
    ttft=st.floats(1e-6, 1e-1),
    tpot=st.floats(1e-6, 1e-2),
)
def test_most_requests_is_the_last_batch_within_all_limits(memory, ttft, tpot):
    device = box(1e12, 1e10)
    limits = {"memory": memory, "ttft": ttft, "tpot": tpot}
    most, stops = most_requests(lambda work: price(DENSE, work, device), Workload(1, 30, 10), limits)

    def broken(batch):
        cost = price(DENSE, Workload(batch, 30, 10), device)
        used = {"memory": cost.memory_bytes, "ttft": cost.ttft_s, "tpot": cost.tpot_s}
        return {name for name in limits if used[name] > limits[name]}

    assert most == 0 or not broken(most)
    assert stops in broken(most + 1)
