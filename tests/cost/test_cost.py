import csv
import json
import sys
from dataclasses import replace
from importlib.resources import files

import pytest

from scalelab.architecture import Architecture, expert_width, mlp_width
from scalelab.cost import Device, Workload, gpu_names, price
from scalelab.cost.engines import get_engine
from scalelab.cost.shape import Layer, ServedModel
from scalelab.errors import ScalelabError, UsageError
from tests.support.paths import DATA

SHAPE = Architecture(2560, 13824, 36, 16, 2, 151_936)


def test_all_192_reference_rows_to_1e_9():
    compared = 0
    with (DATA / "cost_reference.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            hidden = int(row["hidden"])
            assert mlp_width(hidden) == int(row["intermediate"])
            shape = Architecture(hidden, int(row["intermediate"]), 36, 16, 2, 151_936, P=int(row["P"]))
            work = Workload(int(row["batch"]), int(row["input_length"]), int(row["output_length"]))
            cost = price(shape, work, Device())
            for name, value in (
                ("total_memory_bytes", cost.memory_bytes),
                ("total_latency_s", cost.latency_s),
                ("kv_cache_bytes", cost.kv_cache_bytes),
                ("weight_bytes", cost.weight_bytes),
                ("aggregate_bytes", cost.aggregator_bytes),
                ("prefill_activation_bytes", cost.activation_bytes),
            ):
                assert value == pytest.approx(float(row[name]), rel=1e-9), (row, name)
            compared += 1
    assert compared == 192


def test_weights_are_those_of_the_model_but_for_biases_and_streams():
    """llm-analysis knows no QKV biases; apart from those it must count what we count."""
    biases = 36 * (2560 + 2 * 2 * 160)
    assert price(SHAPE, Workload(), Device()).weight_bytes == 2 * (SHAPE.total_params - biases)


@pytest.mark.parametrize(
    ("workload", "device", "shape"),
    [
        ({"batch": 4}, {}, {}),
        ({"tokens_in": 512}, {}, {}),
        ({"tokens_out": 512}, {}, {}),
        ({}, {"gpu": "h100-sxm-80gb"}, {}),
        ({}, {"flops_efficiency": 0.3}, {}),
        ({}, {"memory_efficiency": 0.5}, {}),
        ({}, {}, {"intermediate_size": 6912}),
        ({}, {}, {"num_layers": 18}),
        ({}, {}, {"num_kv_heads": 16}),
        ({}, {}, {"vocab_size": 32_000}),
        ({}, {}, {"prefix_tokens": 480}),
    ],
)
def test_every_input_acts(workload, device, shape):
    base = {"hidden_size": 2560, "intermediate_size": 13824, "num_layers": 36, "num_heads": 16}
    base |= {"num_kv_heads": 2, "vocab_size": 151_936, "P": 2}
    before = price(Architecture(**base), Workload(), Device())
    after = price(Architecture(**(base | shape)), Workload(**workload), Device(**device))
    assert after.latency_s != before.latency_s


def test_shared_gpu_configs_are_not_changed():
    first = price(SHAPE, Workload(), Device())
    price(SHAPE, Workload(), Device(flops_efficiency=0.1, memory_efficiency=0.1))
    assert price(SHAPE, Workload(), Device()) == first


def test_what_does_not_fit_is_said_not_hidden():
    assert price(SHAPE, Workload(), Device()).fits
    crowded = price(SHAPE.with_streams(8), Workload(512, 512, 512), Device())
    assert crowded.memory_bytes > 80 * 2**30
    assert not crowded.fits


def by_hand(model, work, flops_per_s, bytes_per_s):
    """Bytes and seconds of llm-analysis' roofline with the paper's streams, written out from its definitions.

    Attention and MLP take the longer of arithmetic and traffic, norms their traffic at 32 bits, the input
    embedding that of its whole table, the output embedding its arithmetic.
    """
    h, m, heads, V = model.hidden_size, model.intermediate_size, model.num_heads, model.vocab_size
    E, k = max(1, model.num_experts), model.experts_per_token if model.num_experts else 1
    share, P, B, o = model.num_kv_heads / heads, model.P, work.batch, work.tokens_out
    s = work.tokens_in + (model.prefix_tokens if P > 1 else 0)
    aggregator = {"dynamic": P * h * h + h * P, "mean": 0, "channel": P * h}[model.aggregation] if P > 1 else 0

    def activations(rows, length):
        return max(6 * h, 4 * h + 8 * heads) * rows * length, max(2 * h, 2 * m) * k * rows * length

    def forward(rows, length, tokens):
        attention, mlp = activations(rows, length)
        attention_flops = (4 + 4 * share) * rows * length * h**2 + 4 * rows * length**2 * h
        layer = max(attention_flops / flops_per_s, ((4 + 4 * share) * h * h + attention) / bytes_per_s)
        layer += max(6 * rows * length * h * m * k / flops_per_s, (6 * h * m * E + mlp) / bytes_per_s)
        layer += 2 * 4 * rows * length * h / bytes_per_s
        logits = 2 * (rows * length - (P - 1) * B * tokens) * V * h
        mix = 2 * aggregator * B * tokens
        return model.num_layers * layer + 2 * V * h / bytes_per_s + (logits + mix) / flops_per_s

    layer = (2 + 2 * share) * h * h + 3 * h * m * E + (E * h if E > 1 else 0) + 2 * h
    weights = 2 * (model.num_layers * layer + h + V * h * (1 if model.tied_embeddings else 2))
    cache = model.num_layers * 4 * P * B * (s + o) * share * h
    peak = max(*activations(P * B, s), 2 * P * B * s * h, 2 * V * B * s)
    seconds = forward(P * B, s, work.tokens_in) + o * (forward(P * B, 1, 1) + 2 * cache / bytes_per_s)
    return weights + cache + peak + 2 * aggregator, seconds


MOE = Architecture(1024, expert_width(1024, 2), 12, 16, 2, 32_000, num_experts=8)
SHAPES = [
    SHAPE,  # grouped queries
    replace(SHAPE, P=8),
    replace(SHAPE, num_kv_heads=16, P=2),  # a KV head for each head
    replace(SHAPE, num_kv_heads=1),
    Architecture(768, 2048, 12, 12, 12, 50_000, P=4, prefix_tokens=7, tied_embeddings=False),
    replace(SHAPE, P=2, aggregation="mean"),
    replace(SHAPE, P=2, aggregation="channel"),
    MOE,
    replace(MOE, P=4, experts_per_token=3),
]


@pytest.mark.parametrize("name", gpu_names())
def test_every_gpu_and_every_shape_it_holds_by_hand(name):
    gpu = json.loads((files("llm_analysis") / "gpu_configs" / f"{name}.json").read_text())
    flops_per_s, bytes_per_s = 0.7e12 * gpu["peak_fp16_TFLOPS"], 0.9e9 * gpu["hbm_bandwidth_in_GB_per_sec"]
    for shape in SHAPES:
        for work in (Workload(), Workload(1, 500, 3), Workload(16, 64, 512)):
            cost = price(shape, work, Device(name))
            wanted = by_hand(shape, work, flops_per_s, bytes_per_s)
            assert (cost.memory_bytes, cost.latency_s) == pytest.approx(wanted, rel=1e-9), (shape, work)
            assert cost.fits == (cost.memory_bytes <= gpu["mem_per_GPU_in_GB"] * 2**30)


def test_there_are_seventeen_gpus():
    assert len(gpu_names()) == 17


def test_experts_are_all_kept_and_a_token_computes_its_own():
    """Before, they were priced as one MLP."""
    assert price(MOE, Workload(), Device()).weight_bytes == 2 * MOE.total_params
    dense = replace(MOE, num_experts=0, intermediate_size=2 * MOE.intermediate_size)
    crowd = Workload(64, 512, 1)  # limited by arithmetic
    assert price(MOE, crowd, Device()).prefill_s == pytest.approx(price(dense, crowd, Device()).prefill_s, rel=1e-9)


def test_untied_embeddings_are_kept_twice():
    untied = replace(SHAPE, tied_embeddings=False)
    table = 2 * SHAPE.vocab_size * SHAPE.hidden_size
    tied = price(SHAPE, Workload(), Device())
    assert price(untied, Workload(), Device()).weight_bytes == tied.weight_bytes + table
    assert price(untied, Workload(), Device()).latency_s == tied.latency_s


def test_bad_inputs_are_named():
    with pytest.raises(UsageError, match="gpu='abacus': unknown; `list_hardware` lists all"):
        price(SHAPE, Workload(), Device("abacus"))
    with pytest.raises(UsageError, match=r"flops_efficiency=1\.5: must lie in"):
        Device(flops_efficiency=1.5)
    with pytest.raises(UsageError, match="batch"):
        Workload(batch=0)


def test_missing_llm_analysis_names_the_command_that_mends_it(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "llm_analysis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llm_analysis", None)
    with pytest.raises(ScalelabError, match=r"pip install --no-deps llm-analysis==0\.2\.2") as caught:
        price(SHAPE, Workload(), Device())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "more", "reason"),
    [
        (
            Layer(8, 2, 64, 1024, num_experts=4, experts_per_token=1),
            {},
            "a single expert per token",
        ),
        (Layer(8, 2, 64, 1024), {"banks": ((1, 16),)}, "a prefix at P = 1"),
    ],
)
def test_what_llm_analysis_cannot_price_is_refused_by_name(layer, more, reason):
    """Others, out of real configs, are in test_served.py."""
    model = ServedModel(512, 1000, ((layer, 2),), 512, name="mine", **more)
    with pytest.raises(UsageError, match=f"mine: llm-analysis cannot price {reason}; use `engine='roofline'`"):
        get_engine("llm-analysis")(model, Workload(), Device())
    assert get_engine("roofline")(model, Workload(), Device()).latency_s > 0
