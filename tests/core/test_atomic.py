"""State on disk after a power cut: contents are synced before a file gets its name, and its folder afterwards."""

import os
import shutil
from pathlib import Path

import pytest

from scalelab.atomic import atomic_folder, atomic_write, remove_abandoned, remove_unfinished_of
from scalelab.model import add_streams
from scalelab.model.checkpoint import save_model
from scalelab.train.checkpoint import TrainState, save_state
from scalelab.train.corpus import load_corpus
from scalelab.train.tokens import tokenise
from tests.support.families import make

pytestmark = pytest.mark.skipif(os.name != "posix", reason="folders cannot be synced elsewhere")


@pytest.fixture
def trace(monkeypatch):
    """Log of synced files and of renames, in order."""
    seen, fsync, rename, replace = [], os.fsync, Path.rename, Path.replace

    def synced(handle):
        seen.append(("sync", os.fstat(handle).st_ino))
        fsync(handle)

    def renamed(real):
        def move(path, target):
            inodes = {p.stat().st_ino for p in (path, *path.rglob("*"))} if path.is_dir() else {path.stat().st_ino}
            seen.append(("rename", inodes, Path(target)))
            return real(path, target)

        return move

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed(rename))
    monkeypatch.setattr(Path, "replace", renamed(replace))
    return seen


def check(trace, target):
    """Assert that `target` got its name when all of it was synced, and that the name was synced afterwards."""
    (at,) = [i for i, event in enumerate(trace) if event[0] == "rename" and event[2] == target]
    before = {event[1] for event in trace[:at] if event[0] == "sync"}
    after = {event[1] for event in trace[at:] if event[0] == "sync"}
    assert trace[at][1] <= before
    assert target.parent.stat().st_ino in after


def test_files(trace, tmp_path):
    with atomic_write(tmp_path / "a.json") as file:
        file.write(b"{}")
    check(trace, tmp_path / "a.json")


def test_folders_of_folders(trace, tmp_path):
    with atomic_folder(tmp_path / "whole", lambda building, target: building.rename(target)) as building:
        (building / "below").mkdir()
        (building / "below" / "file").write_text("x")
    check(trace, tmp_path / "whole")


def test_models_states_and_token_caches(trace, tmp_path, text_folder, monkeypatch):
    import torch

    model = add_streams(make("qwen2"), 2, prefix_tokens=4)
    save_model(model, tmp_path / "model")
    check(trace, tmp_path / "model")
    state = save_state(tmp_path / "states", model, torch.optim.AdamW(model.parameters()), TrainState(step=3))
    check(trace, state)
    monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path / "cache"))
    check(trace, tokenise(load_corpus(str(text_folder)), 300).folder)


def test_what_a_killed_process_left_of_a_model_goes_with_the_next_and_others_stay(tmp_path):
    left = [tmp_path / f".building-{name}.abc" for name in ("model", "model-2", "model.2")]
    for folder in left:
        (folder / "below").mkdir(parents=True)
    remove_unfinished_of(tmp_path / "model")
    assert [folder.exists() for folder in left] == [False, True, True]
    shutil.rmtree(left[1])
    save_model(add_streams(make("qwen2"), 2, prefix_tokens=4), tmp_path / "model.2")
    assert {path.name for path in tmp_path.iterdir()} == {"model.2"}


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_write_and_others_stay(tmp_path):
    left = [tmp_path / f".{name}.{'0' * 32}.tmp" for name in ("a.json", "b.json", "x.a.json", "a.json.bak")]
    for file in left:
        file.write_bytes(b"{")
    with atomic_write(tmp_path / "a.json", clean=False) as file:
        file.write(b"{}")
    assert all(file.exists() for file in left)
    with atomic_write(tmp_path / "a.json") as file:
        file.write(b"{}")
    assert [file.exists() for file in left] == [False, True, True, True]
    remove_abandoned([tmp_path / "b.json", tmp_path / "none" / "c.json"])
    assert [file.exists() for file in left] == [False, False, True, True]


def test_two_writers_of_one_file_leave_each_other_alone(tmp_path):
    with atomic_write(tmp_path / "a") as first:
        first.write(b"first")
        with atomic_write(tmp_path / "a") as second:
            second.write(b"second")
        assert (tmp_path / "a").read_bytes() == b"second"
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
