import pytest

from scalelab.errors import UsageError
from scalelab.units import (
    all_of,
    counts,
    format_count,
    format_number,
    format_seconds,
    parse_count,
    plural,
    whole_numbers,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("50k", 50e3), ("0.2M", 0.2e6), ("7B", 7e9), ("1.5T", 1.5e12), ("1e6", 1e6), (1000, 1000.0), (" 3K ", 3e3)],
)
def test_counts_are_read(text, value):
    assert parse_count(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["x", "", "-5k", "0", "nan", "inf", "5q", "1e999"])
def test_what_is_no_count_is_named(text):
    with pytest.raises(UsageError, match="positive count"):
        parse_count(text)


def test_lists_take_commas_and_repeats():
    assert whole_numbers(["1", "2,4", "8"], "--P") == (1, 2, 4, 8)
    assert counts(["50k,0.1M"], "--N") == (50e3, 100e3)
    for bad in ("0", "²", "--5", "1.5", "9" * 400, "x"):
        with pytest.raises(UsageError, match=r"--P: .* is not a whole number of at least 1"):
            whole_numbers(["1", bad], "--P")
    with pytest.raises(UsageError, match="--P: needs at least one value"):
        whole_numbers([","], "--P")


@pytest.mark.parametrize(("value", "text"), [(137_000, "137k"), (4.35e9, "4.35B"), (999_999, "1M"), (12, "12")])
def test_counts_are_written(value, text):
    assert format_count(value) == text


def test_numbers_and_durations_are_written_short():
    assert format_number(11307073.2) == "1.131e7"
    assert format_number(0.69120) == "0.6912"
    assert [format_seconds(s) for s in (5.4, 185, 7800)] == ["5s", "3m05s", "2h10m"]


def test_counts_agree_with_their_nouns():
    assert [plural(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert [plural(n, "run is", "runs are") for n in (1, 3)] == ["1 run is", "3 runs are"]
    assert [all_of(n, "run is", "runs are") for n in (1, 4)] == ["the run is", "all 4 runs are"]
