"""A killed `scalelab fit` leaves each file whole or absent; all commands in benchmarks/command_kills.py."""

import os
import time
import uuid
from contextlib import contextmanager
from dataclasses import replace

import pytest

from benchmarks.command_kills import COMMANDS, Kills
from benchmarks.tally import commands_of, replace_commands

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="process groups and file locks"),
]
FIT = next(command for command in COMMANDS if command.name == "fit")
FIT = replace(FIT, words=[*FIT.words, "--no-figure"])


def write_in_place():
    """Replace `atomic_write` by a plain write that takes its time."""
    from scalelab import atomic

    @contextmanager
    def plain(path, lasting=True, clean=True):
        marker = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        with path.open("wb") as file:
            file.write(b"{")
            file.flush()
            marker.touch()  # after the first byte: a kill that waits for the marker finds a partial file
            time.sleep(1.0)
            file.seek(0)
            yield file
        marker.unlink()

    atomic.atomic_write = plain


def leave_all():
    """Keep what killed processes left, and give each write time to be killed."""
    from scalelab import atomic

    whole = atomic.atomic_write

    @contextmanager
    def slow(path, lasting=True, clean=True):
        with whole(path, lasting, clean=False) as file:
            time.sleep(1.0)
            yield file

    atomic.atomic_write = slow


def test_fit(tmp_path):
    tally = Kills(tmp_path).kill(FIT, 2)
    assert tally.kills == 2


@pytest.mark.parametrize(("fault", "message"), [(write_in_place, "not as in the reference"), (leave_all, r"\.tmp")])
def test_the_campaign_notices_partial_files_and_leftovers(tmp_path, fault, message):
    with pytest.raises(AssertionError, match=message):
        Kills(tmp_path, before=fault).kill(FIT, 2)


def test_the_section_replaces_the_earlier_one(tmp_path):
    page = tmp_path / "page.md"
    assert commands_of(page) == ""
    first = replace_commands("# Sweeps\n", "\n## Single commands\n\nfirst\n")
    page.write_text(replace_commands(first, "\n## Single commands\n\nsecond\n"))
    assert page.read_text() == "# Sweeps\n\n## Single commands\n\nsecond\n"
    assert commands_of(page) == "\n## Single commands\n\nsecond\n"
