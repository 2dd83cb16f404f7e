import csv
import sys

import pytest

from scalelab.architecture import Architecture, mlp_width
from scalelab.cost import Device, Workload, gpu_names, price
from scalelab.errors import ScalelabError, UsageError
from tests.conftest import DATA

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


def test_all_seventeen_gpus_price():
    assert len(gpu_names()) == 17
    for name in gpu_names():
        assert price(SHAPE, Workload(), Device(name)).latency_s > 0


def test_bad_inputs_are_named():
    with pytest.raises(UsageError, match="--gpu abacus: unknown; choose one of a10"):
        price(SHAPE, Workload(), Device("abacus"))
    with pytest.raises(UsageError, match="flops efficiency"):
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
