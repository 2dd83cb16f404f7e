"""YAML that is made to exhaust a reader: specs, devices, and maps of names to sizes."""

import pytest

from scalelab.cost.hardware import read_hardware
from scalelab.errors import DataError, UsageError
from scalelab.importers.sources import read_map
from scalelab.sweep.spec import SweepSpec, assignments, load_spec

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = {
    "aliases": (LAUGHS, r", line 1: anchors \(&\) and aliases \(\*\) are not allowed"),
    "a cycle": ("&a [*a]\n", "line 1: anchors"),
    "nested lists": ("N: " + "[" * 100_000, "nested more than 50 levels deep"),
    "nested maps": ("{a: " * 100_000, "nested more than 50 levels deep"),
    "nested blocks": ("\n".join(" " * i + f"k{i}:" for i in range(600)), "nested more than 50 levels deep"),
    "a large file": ("#" * (2**20 + 1), "larger than 1 MiB"),
    "an object": ("N: !!python/object/apply:os.system [true]\n", "line 1: not YAML"),
    "no text": (b"N: \xff\xfe", "not UTF-8 text"),
    "a key that is a list": ("? [a, b]\n: 1\n", "not YAML|not a map|give a mapping|not a sweep spec|unknown"),
    "a date that does not exist": ("N: 2026-99-99\n", "not YAML"),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("read", [load_spec, read_hardware, read_map], ids=["spec", "hardware", "map"])
def test_readers_refuse_it_in_one_line(tmp_path, read, name):
    content, message = TEXTS[name]
    file = tmp_path / "mine.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as error:
        read(file)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("value", ["[" * 10_000, "{a: " * 10_000, "&a [*a]"])
def test_values_on_the_command_line_are_refused_too(value):
    with pytest.raises(UsageError, match="is not a value"):
        assignments([f"N={value}"], "--set")


def test_grids_are_counted_before_they_are_built():
    many = tuple(range(1000))
    with pytest.raises(UsageError, match="the grid has 4,000,000 runs, more than 100,000; give fewer values"):
        SweepSpec(seeds=many, D=tuple(1e6 + i for i in many), N=(1e5,))
