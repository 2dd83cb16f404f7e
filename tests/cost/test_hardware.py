import json
import math
import re

import pytest

from scalelab.cli import main
from scalelab.cost import gpu_names
from scalelab.cost.hardware import WIDER, builtin_devices, find_hardware, read_hardware
from scalelab.cost.runtime import CLASSES
from scalelab.errors import DataError, UsageError

MINE = """
my-box:
  tflops: {fp32: 1.5, bf16: 3}
  bandwidth: 50
  memory: 16
  source: measured here
  measured: true
  launch_us: 2.5
"""


def test_the_table_holds_what_was_promised():
    names = set(builtin_devices())
    assert set(gpu_names()) <= names
    wanted = ("h200", "b200", "mi300x", "l40s", "rtx-4090", "rtx-5090", "apple-m", "jetson", "snapdragon", "epyc")
    assert all(any(name.startswith(start) for name in names) for start in wanted)
    assert sum(name.startswith("apple-m") for name in names) >= 3


@pytest.mark.parametrize("device", builtin_devices().values(), ids=lambda d: d.name)
def test_figures_are_plausible_and_cited(device):
    assert any(word in device.source for word in ("NVIDIA", "AMD", "Apple", "Qualcomm", "Raspberry Pi"))
    assert any(str(year) in device.source for year in range(2018, 2027))
    assert 2 * 2**30 < device.memory_bytes < 2**40
    assert 1e10 < device.bytes_per_s < 1e13
    flops = device.flops_per_s
    assert all(1e11 < value < 2e16 for value in flops.values())
    for narrow, chain in WIDER.items():
        if narrow in flops:  # narrower is never slower
            assert all(flops[narrow] >= flops[wide] for wide in chain if wide in flops)


@pytest.mark.parametrize("device", builtin_devices().values(), ids=lambda d: d.name)
def test_no_figure_is_one_with_sparsity(device):
    """Half the width doubles the rate of matrix units; four times would be dense beside "with sparsity"."""
    flops = device.flops_per_s
    for wide, narrow in (("tf32", "bf16"), ("bf16", "fp8"), ("fp8", "int8"), ("int8", "int4")):
        if wide in flops and narrow in flops:
            assert flops[narrow] / flops[wide] == pytest.approx(2, rel=0.03) or flops[narrow] == flops[wide]


@pytest.mark.parametrize("device", builtin_devices().values(), ids=lambda d: d.name)
def test_every_device_has_a_class_and_a_limit_of_power(device):
    assert device.kind in CLASSES
    assert device.kind != "other"
    assert device.watts is not None
    assert 5 <= device.watts <= 1500
    assert device.usable_bytes is None or 0.5 * device.memory_bytes < device.usable_bytes < device.memory_bytes
    assert device.vector_flops_per_s is None or device.vector_flops_per_s < device.flops_per_s["fp32"]
    unified = device.name.startswith("apple-m")
    assert (device.kind == "apple") == device.name.startswith("apple")
    if unified:  # Metal's recommendation: two thirds of up to 36 GB, three quarters of more
        share = 2 / 3 if device.memory_bytes <= 36 * 2**30 else 3 / 4
        assert device.usable_bytes == pytest.approx(share * device.memory_bytes, rel=0.01)


def test_geforce_tensor_cores_keep_their_ratio_to_cuda_cores():
    """With fp32 accumulation 16 bits run at twice fp32 on every GeForce since Ampere, in NVIDIA's white papers."""
    cards = [d for d in builtin_devices().values() if d.kind == "geforce"]
    assert len(cards) > 20
    for card in cards:
        assert card.flops_per_s["bf16"] / card.flops_per_s["fp32"] == pytest.approx(2, rel=0.01)
        assert card.flops_per_s["int8"] / card.flops_per_s["fp32"] == pytest.approx(8, rel=0.01)


def test_vector_units_compute_what_their_cores_and_clocks_give():
    per_cycle = {"fp32": 32, "bf16": 64}  # Zen 4: two FMA pipes of 256 bits
    for name, cores, gigahertz in (("ryzen-9-7950x", 16, 4.5), ("epyc-9654", 96, 2.4)):
        for precision, flops in builtin_devices()[name].flops_per_s.items():
            assert flops == pytest.approx(cores * gigahertz * 1e9 * per_cycle[precision], rel=0.01)


# Devices whose peaks, bandwidth and memory were checked, and what of that was not.
CHECKED = {
    **dict.fromkeys(
        [
            *("v100-pcie-16gb", "v100-pcie-32gb", "v100-sxm-16gb", "v100-sxm-32gb", "a10-pcie-28gb"),
            *("a10g-pcie-24gb", "a6000-48gb", "a100-pcie-40gb", "a100-pcie-80gb", "a100-sxm-40gb"),
            *("a100-sxm-80gb", "h100-pcie-80gb", "h100-sxm-80gb", "h200-sxm-141gb", "l40s", "rtx-4090"),
            *("mi210-64gb", "mi250-128gb", "mi250x-128gb", "mi300x-192gb", "apple-m1-max", "apple-m2"),
        ],
        (),
    ),
    "b200-sxm-180gb": ("fp4",),
    "rtx-5090": ("fp4",),
    "jetson-agx-orin-64gb": ("bf16",),
    "mi100-32gb": ("bf16",),
    "apple-m1": ("bandwidth",),
    "apple-m2-ultra": ("fp32",),
    "apple-m4-max": ("fp32",),
    "snapdragon-8-gen-3": ("fp32", "bf16", "memory"),
    "ryzen-9-7950x": ("bf16",),
    "epyc-9654": ("bf16", "memory"),
}
SURVEYED = {"a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb"}  # prices that were looked up


POWERS = {"h100-pcie-80gb"}  # whose watts were looked up


def test_what_is_unconfirmed_is_known():
    """Whoever adds a device, or confirms a figure, says so here; every other figure is marked."""
    extra = {
        "usable": "usable_bytes",
        "watts": "watts",
        "link": "link_bytes_per_s",
        "vector_tflops": "vector_flops_per_s",
        "price_per_hour": "price_per_hour",
    }
    for name, device in builtin_devices().items():
        figures = (*device.flops_per_s, "bandwidth", "memory")
        expected = {*CHECKED.get(name, figures)}
        expected |= {key for key, attribute in extra.items() if getattr(device, attribute) is not None}
        expected -= {"price_per_hour"} if name in SURVEYED else set()
        expected -= {"watts"} if name in POWERS else set()
        assert {*device.unconfirmed} == expected, name


def test_figures_agree_with_those_of_llm_analysis():
    """A second hand that wrote down the same sheets; where it differs, the difference is known."""
    from importlib.resources import files

    known = {
        ("v100-sxm-16gb", "memory"): (16, 32),  # theirs says 32 GB for the one with 16
        ("a10-pcie-28gb", "memory"): (24, 28),
        ("mi100-32gb", "bf16"): (92.3, 184.6),  # theirs is fp16, which is twice as fast there
        ("mi100-32gb", "int8"): (184.6, 369.2),  # theirs doubles 16 bits for 8, and 8 for 4; AMD's sheets do not
        ("mi210-64gb", "int8"): (181, 362),
        ("mi250-128gb", "int8"): (362.1, 724.2),
        ("mi250x-128gb", "int8"): (383, 766),
    }
    for name in gpu_names():
        theirs = json.loads((files("llm_analysis") / "gpu_configs" / f"{name}.json").read_text())
        ours = builtin_devices()[name]
        pairs = {
            "bf16": (ours.flops_per_s["bf16"] / 1e12, theirs["peak_fp16_TFLOPS"]),
            "int8": (ours.flops_per_s.get("int8", 0) / 1e12, theirs["peak_i8_TFLOPS"]),
            "bandwidth": (ours.bytes_per_s / 1e9, theirs["hbm_bandwidth_in_GB_per_sec"]),
            "memory": (ours.memory_bytes / 2**30, theirs["mem_per_GPU_in_GB"]),
        }
        for key, pair in pairs.items():
            expected = known.get((name, key))
            assert pair == pytest.approx(expected or (pair[1], pair[1]), rel=0.03), (name, key)


def test_a_precision_without_units_is_computed_at_the_next_wider_one():
    m1, h100, a100 = (find_hardware(n) for n in ("apple-m1", "h100-sxm-80gb", "a100-sxm-80gb"))
    assert m1.peak("int4") == m1.peak("bf16") == 2.6e12
    assert h100.peak("int4") == h100.peak("int8") == 1979e12
    assert a100.peak("fp8") == a100.peak("bf16") == 312e12
    assert a100.peak("tf32") == 156e12
    assert find_hardware("v100-pcie-16gb").peak("tf32") == 14e12


def test_own_devices_are_read_and_come_first(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(MINE + MINE.replace("my-box", "rtx-4090"))
    device = find_hardware("my-box", file)
    assert device.flops_per_s == {"fp32": 1.5e12, "bf16": 3e12}
    assert (device.bytes_per_s, device.memory_bytes) == (5e10, 16 * 2**30)
    assert device.measured
    assert math.isclose(device.launch_s, 2.5e-6)
    assert find_hardware("rtx-4090", file).bytes_per_s == 5e10
    assert find_hardware("l40s", file) == builtin_devices()["l40s"]
    with pytest.raises(UsageError, match=r"gpu='mybox': unknown; did you mean my-box\?"):
        find_hardware("mybox", file)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("rtx4090", "did you mean rtx-4090? "),
        ("h101", "did you mean h100-pcie-80gb or h100-sxm-80gb? "),
        ("A100-SXM-80GB", "did you mean a100-sxm-80gb or "),
        ("m1", "did you mean apple-m1? "),
        ("l40", "did you mean l40s? "),
        ("abacus", ""),
    ],
)
@pytest.mark.parametrize(
    "words", ["cost --hidden 1024", "cost --hidden 1024 --engine both", "compare --hidden 1536 --data paper"]
)
def test_an_unknown_device_is_answered_alike_everywhere(scalelab, words, typed, meant):
    code, out, error = scalelab(*words.split(), "--gpu", typed)
    assert (code, out) == (2, "")
    assert f"--gpu {typed}: unknown; {meant}" in error
    assert ("did you mean" in error) == bool(meant)
    assert "scalelab cost --list-hardware lists all (--engine roofline prices each of them, llm-analysis some)" in error


def test_a_misspelt_device_of_ones_own_is_found(scalelab, tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE)
    code, _, error = scalelab("cost", "--hidden", 1024, "--hardware", "mine.yaml", "--gpu", "my-bx")
    assert (code, "did you mean my-box?" in error) == (2, True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bandwidth: 50", "bandwidth: fast", "my-box: bandwidth: must be a number above 0, not 'fast'"),
        ("bandwidth: 50", "bandwidth: -1", "my-box: bandwidth: must be a number above 0, not -1"),
        ("bandwidth: 50", "bandwidth: .inf", "my-box: bandwidth: must be a number above 0, not inf"),
        ("bandwidth: 50", "bandwidth: .nan", "my-box: bandwidth: must be a number above 0, not nan"),
        ("bandwidth: 50", "bandwidth: true", "my-box: bandwidth: must be a number above 0, not True"),
        ("  memory: 16\n", "", "my-box: memory is missing"),
        ("memory: 16", "memory: 16\n  colour: red", "my-box: colour: unknown key; use tflops, "),
        ("{fp32: 1.5, bf16: 3}", "3", "my-box: tflops: give a mapping"),
        ("fp32: 1.5", "fp31: 1.5", "my-box: tflops: fp31: unknown; choose among fp32, tf32, bf16"),
        ("fp32: 1.5", "fp32: null", "my-box: tflops: fp32 is missing"),
        ("bf16: 3", "bf16: 0", "my-box: tflops: bf16: must be a number above 0, not 0"),
        ("source: measured here", "source: ''", "my-box: source: give the source of the figures as text"),
        ("measured: true", "measured: 1", "my-box: measured: give true or false, not 1"),
        ("launch_us: 2.5", "launch_us: -1", "my-box: launch_us: must be a number of at least 0, not -1"),
        ("launch_us: 2.5", "attention_tflops: 0", "my-box: attention_tflops: must be a number above 0, not 0"),
        ("launch_us: 2.5", "row_shares: [1, 2]", "my-box: row_shares: give a mapping of rows to shares"),
        ("launch_us: 2.5", "row_shares: {4: 50}", "my-box: row_shares: give fractions, not percentages"),
        (
            "launch_us: 2.5",
            "launch_us: 1" + "0" * 400,
            "my-box: launch_us: must be a number of at least 0, not a longer",
        ),
        ("launch_us: 2.5", "launch_us: 1e2", "not '1e2' (YAML wants 1.0e+2)"),
        ("launch_us: 2.5", "launch_us: 2026-99-99", "not YAML"),
        ("launch_us: 2.5", "row_shares: {4: -1}", "my-box: row_shares: 4: must be a number above 0, not -1"),
        (
            "launch_us: 2.5",
            "unconfirmed: [int8]",
            "my-box: unconfirmed: give a list of keys among fp32, bf16, bandwidth",
        ),
        (MINE, "my-box: 3", "my-box: give a mapping with tflops, bandwidth, memory, source"),
        (MINE, "[1]", "give a mapping of device names"),
        (MINE, "", "give a mapping of device names"),
        (MINE, "a: [\n", "line 2: not YAML"),
    ],
)
def test_a_bad_file_is_named_with_device_and_key(tmp_path, old, new, message):
    file = tmp_path / "mine.yaml"
    assert old in MINE
    file.write_text(MINE.replace(old, new))
    with pytest.raises(DataError) as caught:
        read_hardware(file)
    assert re.match(rf"{re.escape(str(file))}(, line \d+)?: ", str(caught.value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(UsageError, match=r"hardware='.*nowhere\.yaml': cannot be read \(No such file"):
        read_hardware(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_hardware(tmp_path / "binary.yaml")


def test_the_list_shows_every_device_and_its_source(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    assert main(["cost", "--list-hardware", "--hardware", str(file)]) == 0
    out = capsys.readouterr().out
    for name, device in builtin_devices().items():
        assert f"{name}: {device.source}" in out
    assert "my-box: measured here; measured" in out
    assert main(["cost", "--list-hardware", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(builtin_devices())


def test_of_measured_figures_all_is_reached_by_default(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(MINE + MINE.replace("my-box", "promised").replace("  measured: true\n", ""))
    seconds = {}
    for gpu, extra in (
        ("my-box", []),
        ("promised", ["--flops-efficiency", "1", "--memory-efficiency", "1"]),
        ("promised", []),
    ):
        words = ["cost", "--hidden", "256", "--P", "1", "--engine", "roofline", "--hardware", str(file), "--gpu", gpu]
        words += ["--tokens-in", "1"]  # more rows cost more on a device that is not measured
        assert main([*words, *extra, "--json"]) == 0
        seconds[gpu, bool(extra)] = json.loads(capsys.readouterr().out)[0]["latency_s"]
    assert seconds["my-box", False] == seconds["promised", True] < seconds["promised", False]


def test_prices_say_which_figures_nobody_checked(capsys):
    command = ["cost", "--hidden", "1024", "--P", "1", "--preset", "serving", "--gpu"]
    said = {}
    for name in ("h100-sxm-80gb", "rtx-4060-laptop", "snapdragon-8-elite-npu"):
        assert main([*command, name]) == 0
        said[name] = capsys.readouterr().err
    assert said["h100-sxm-80gb"] == ""
    assert said["rtx-4060-laptop"] == (
        "note: rtx-4060-laptop: unconfirmed: bf16, bandwidth, memory, not checked against the source; scalelab cost "
        "--list-hardware has figures and sources\n"
    )
    assert "no published measurements of its class (npu)" in said["snapdragon-8-elite-npu"]
    assert main([*command, "rtx-4060-laptop", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_every_device_has_a_source_and_its_unchecked_figures_are_marked():
    for device in builtin_devices().values():
        assert device.source, device.name
        known = {*device.flops_per_s, "bandwidth", "memory"}
        assert {*device.unconfirmed} <= known | {"usable", "watts", "link", "price_per_hour", "vector_tflops"}
