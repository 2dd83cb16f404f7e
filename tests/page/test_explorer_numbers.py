"""The explorer's numbers equal Python's: every law, intervals, plain sizes, prices on every device, the best size."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import scalelab as sl
from scalelab.cost.formats import FORMATS, KV_BITS
from scalelab.cost.hardware import Hardware, builtin_devices
from scalelab.cost.request import Device, Precision, Workload
from scalelab.cost.roofline import price
from scalelab.fit.derived import n_equivalent, predicted
from scalelab.laws import LAWS, Points
from scalelab.laws.tied import tied
from scalelab.page.explorer import SHAPES, explorer_data, explorer_page
from scalelab.page.laws import law_data
from scalelab.plan.problem import train_flops
from scalelab.records import paper_records
from tests.support.tables import fit_table

pytestmark = pytest.mark.browser
CLOSE = 1e-6  # relative
SCALE = {"N": 1e9, "D": 1e11, "C": 1e21, "lr": 1e-3, "B": 1e6, "loss": 2.0}
RANGE = {"N": (1e6, 1e12), "D": (1e8, 1e14), "C": (1e16, 1e26), "U": (1e8, 1e13), "X": (1, 256), "R": (1, 64)}
RANGE |= {"lr": (1e-5, 1e-1), "B": (1e4, 1e8)}
STREAMS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # of the explorer
# A device measured here, whose figures are achieved ones.
MEASURED = Hardware(
    "measured <b>here</b>",
    {"fp32": 1.5e12, "bf16": 6e12},
    4e10,
    2**35,
    measured=True,
    launch_s=4e-6,
    graph_launch_s=2e-6,
    attention_flops_per_s=8e11,
    vector_bytes_per_s=3e10,
    row_shares=((1.0, 0.9), (4.0, 0.7), (64.0, 0.95)),
)


@pytest.fixture(scope="module")
def fits():
    stack = paper_records().query("corpus == 'stack-v2-python'")
    return [fit_table(stack, law, draws=60, starts=20) for law in ("parallel", "additive", "power")]


@pytest.fixture
def page(open_page, fits, tmp_path):
    file = tmp_path / "explorer.html"
    file.write_text(explorer_page(fits, {MEASURED.name: MEASURED}), encoding="utf-8")
    return open_page(file)


def difference(found, wanted) -> float:
    """Return the largest relative difference; both must be NaN, or infinite, in the same places."""
    found, wanted = np.array(found, dtype=float).ravel(), np.array(wanted, dtype=float).ravel()
    assert found.shape == wanted.shape
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(found[~finite], wanted[~finite])
    assert finite.mean() > 0.5, "most of the grid must have numbers to compare"
    return float(np.max(np.abs(found[finite] - wanted[finite]) / np.maximum(np.abs(wanted[finite]), 1e-300)))


def report(record_property, what: str, largest: float) -> None:
    """Record the largest difference, print it, and require it to be small."""
    record_property("largest_difference", largest)
    print(f"{what}: largest relative difference {largest:.2g}")
    assert largest < CLOSE


def random_params(law, rng) -> list[float]:
    values = []
    for p in law.parameters:
        low, high = p.start
        drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if p.positive else rng.uniform(low, high)
        values.append(drawn * SCALE.get(p.relative_to or "", 1.0))
    return values


def random_point(rng) -> dict[str, float]:
    point = {name: math.exp(rng.uniform(*np.log(ends))) for name, ends in RANGE.items()}
    return point | {"P": float(rng.choice([1, 2, 3, 4, 8, 16, 64]))}


def test_every_law_gives_the_losses_of_python(page, record_property):
    rng = np.random.default_rng(22)
    laws = [*LAWS.values(), tied(LAWS["joint"], {"beta": "alpha"}), tied(LAWS["lr-batch"], {"alpha": "beta"})]
    request, wanted = [], []
    for law in laws:
        params = [random_params(law, rng) for _ in range(30)]
        params.append([0.0 if p.needs == "P" else v for p, v in zip(law.parameters, params[0], strict=True)])
        points = [random_point(rng) for _ in range(30)]
        columns = {name: np.array([point[name] for point in points]) for name in points[0]}
        at = Points(columns.pop("N"), columns.pop("P"), columns.pop("D"), others=columns)
        with np.errstate(all="ignore"):
            wanted.append(law.loss(np.array(params), at))
        request.append({"law": law_data(law), "params": params, "points": points})
    found = page.evaluate(
        """(all) => all.map(({law, params, points}) =>
            params.map((p) => points.map((at) => scalelab.law.loss(law, p, at))))""",
        json.loads(json.dumps(request)),
    )
    assert len(laws) == len(LAWS) + 2
    report(record_property, "laws", max(difference(*pair) for pair in zip(found, wanted, strict=True)))


def test_intervals_and_plain_sizes_equal_those_of_python(page, fits, record_property):
    rng = np.random.default_rng(23)
    points = [{"N": math.exp(rng.uniform(*np.log([1e8, 2e10]))), "P": int(rng.integers(1, 33))} for _ in range(12)]
    found = page.evaluate(
        """(points) => scalelab.data.explorer.fits.map((fit) => points.map((at) =>
            ["evaluate", "nEquivalent"].map((what) => scalelab.law[what](fit, at))))""",
        points,
    )
    largest = 0.0
    for fit, rows in zip(fits, found, strict=True):
        for at, row in zip(points, rows, strict=True):
            for got, of in zip(row, (predicted, n_equivalent), strict=True):
                wanted = of(fit, float(at["N"]), float(at["P"]))
                numbers = [(got[name], getattr(wanted, name)) for name in ("value", "low", "high")]
                for one, other in numbers:
                    if math.isinf(other):
                        assert one == other
                    else:
                        largest = max(largest, abs(one - other) / abs(other))
    report(record_property, "intervals", largest)


def test_prices_equal_those_of_python_on_every_device(page, record_property):
    rng = np.random.default_rng(24)
    devices = builtin_devices() | {MEASURED.name: MEASURED}
    request, wanted = [], []
    for name, hardware in devices.items():
        for _ in range(6):
            N, P = math.exp(rng.uniform(*np.log([2e6, 3e11]))), int(rng.choice(STREAMS))
            weights, kv = str(rng.choice(list(FORMATS))), rng.choice([None, *KV_BITS])
            workload = [int(math.exp(rng.uniform(0, math.log(most)))) for most in (512, 60_000, 9_000)]
            parallel = int(rng.choice([1, 1, 2, 4, 8]))
            request.append([name, parallel, weights, kv, *workload, N, P])
            model = SHAPES.of_width(SHAPES.width_of(N, P), P)
            device = Device(name, hardware=hardware, tensor_parallel=parallel)
            cost = price(model, Workload(*workload), device, Precision(weights, kv))
            wanted.append(
                [
                    *(model.hidden_size, model.num_layers, train_flops(model, 1e12)),
                    *(cost.memory_bytes, cost.device_bytes, cost.weight_bytes, cost.kv_cache_bytes),
                    *(cost.activation_bytes, cost.ttft_s, cost.tpot_s, cost.latency_s, cost.spread, cost.memory_spread),
                ]
            )
    found = page.evaluate(
        """(requests) => requests.map(([name, parallel, weights, kv, batch, tokensIn, tokensOut, N, P]) => {
            const { tables, family, flops_per_token } = scalelab.data.explorer;
            const roofline = scalelab.roofline;
            const model = roofline.decoder(family, N, P, "paper");
            const on = roofline.device(tables, name, parallel);
            const precise = roofline.precision(tables, weights, kv);
            const cost = roofline.price(model, {batch, tokensIn, tokensOut}, on, precise);
            return [model.hidden, model.layers, roofline.trainFlops(model, 1e12, flops_per_token),
                cost.memoryBytes, cost.deviceBytes, cost.weightBytes, cost.cacheBytes,
                cost.activationBytes, cost.ttft, cost.tpot, cost.latency, cost.spread, cost.memorySpread];
        })""",
        request,
    )
    assert len({row[0] for row in request}) == len(devices)
    report(record_property, "prices", difference(np.array(found) + 1e-30, np.array(wanted) + 1e-30))


def test_the_best_setting_within_the_limits_is_that_of_a_plan(page, fits, record_property):
    plan = sl.make_plan(fits[0], ttft=0.5, tpot=0.02, P=STREAMS, shapes="ladder", hardware={MEASURED.name: MEASURED})
    best = page.evaluate(
        """() => { const data = scalelab.data.explorer, at = scalelab.explorerNumbers;
            return at.frontier(data, at.initial(data)).best; }"""
    )
    winner = plan.winner
    assert (best["P"], best["binds"]) == (winner.candidate.P, winner.binds)
    report(record_property, "plan", difference([best["N"], best["loss"]], [winner.candidate.N, winner.loss.value]))


def test_data_are_json_without_infinities(fits):
    data = explorer_data(fits)
    assert json.loads(json.dumps(data, allow_nan=False))["fits"][0]["params"] == list(fits[0].params)
