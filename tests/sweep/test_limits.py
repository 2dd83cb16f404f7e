"""Sweeps that exceed the memory of the machine, or repeat their text."""

import pytest

from scalelab.architecture import architecture_for
from scalelab.errors import UsageError
from scalelab.sweep import limits
from scalelab.train.cost import resident_bytes
from scalelab.train.recipe import Recipe, RunConfig, TextSource


@pytest.fixture
def run():
    shape = architecture_for(50e3, 512, prefix_tokens=4).with_streams(2)
    return RunConfig(shape, 1_000_000, 0, TextSource("made", "0", "made", "0"), Recipe())


def test_a_run_that_cannot_fit_is_refused(run, monkeypatch):
    least = resident_bytes(run, "cpu", 1)
    monkeypatch.setattr(limits, "device_memory_bytes", lambda device: least)
    limits.check_memory([run], "cpu")
    monkeypatch.setattr(limits, "device_memory_bytes", lambda device: least - 1)
    with pytest.raises(UsageError, match=r"with P 2 needs .* to train, and this machine has .*; choose smaller"):
        limits.check_memory([run], "cpu")


def test_runs_that_may_not_fit_together_are_warned_about(run, monkeypatch):
    whole = resident_bytes(run, "cpu")
    monkeypatch.setattr(limits, "device_memory_bytes", lambda device: whole)
    assert limits.limit_warnings([run], "cpu", 1, 1_000_000) == []
    (warning,) = limits.limit_warnings([run], "cpu", 2, 1_000_000)
    assert "choose fewer `workers`" in warning
    (warning,) = limits.limit_warnings([run], "cpu", 1, 1_000)
    assert "D 1M is 1,000 passes over the 1k training tokens" in warning
