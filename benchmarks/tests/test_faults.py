"""Sweeps that are killed, short of disk, doubled or damaged lose nothing; more of it in benchmarks/faults.py."""

import random
import shutil
import sys
import time

import pytest

from benchmarks.disturb import LONGEST_S, Lab, Witness, being_written, run_command, send, writers
from scalelab.architecture import architecture_for
from scalelab.errors import DataError
from scalelab.records.files import RUNS, walk
from scalelab.records.read import gather
from scalelab.train import checkpoint
from scalelab.train.build import build_model
from scalelab.train.checkpoint import TrainState, checkpoint_path, keep_latest, load_newest, save_state, saved_steps
from scalelab.train.corpus import load_corpus
from scalelab.train.optimizer import make_optimizer
from scalelab.train.recipe import Recipe, RunConfig, whole_steps
from scalelab.train.tokens import tokenise
from scalelab.train.trainer import Options, train_run

needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds a sweep's processes in /proc")
ORPHANS_S = 300.0  # only hangs are errors here, since cores may be busy


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("lab"), D=("30k", "60k"), seeds=("0",))


@pytest.fixture(scope="module")
def reference(lab):
    lab.finish(out := lab.folder / "reference")
    assert len(gather(out).records) == 4
    return out


@needs_proc
def test_killed_workers_and_parents_and_a_damaged_record(lab, reference):
    out = lab.folder / "killed"
    witness = Witness(out)
    sweep = lab.start(out)
    writing = []
    for kills in range(2):  # of workers that are writing
        if not sweep.wait_for(lambda: writing.extend(writers(sweep)) or writing, LONGEST_S):
            assert kills, sweep.output
            break
        send(writing)
        writing.clear()
        witness.check()
    assert sweep.wait() == 1
    assert "killed by SIGKILL" in sweep.output
    sweep.orphans_gone_s(ORPHANS_S)

    sweep = lab.start(out)
    assert sweep.wait_for(lambda: "\ndone " in sweep.output, LONGEST_S), sweep.output
    sweep.wait_for(lambda: being_written(out), 1.0)
    sweep.kill()
    sweep.orphans_gone_s(ORPHANS_S)
    witness.check()

    record = out / RUNS / f"{sorted(witness.finished)[0]}.parquet"
    record.write_bytes(record.read_bytes()[:-1])
    witness.check(damaged=frozenset([record]))
    with pytest.raises(DataError, match=record.name):
        gather(out)
    code, text = run_command(["results", "check", str(out), "--quarantine"])
    assert code == 0
    assert str(record) in text
    del witness.finished[record.stem]
    witness.check()
    lab.finish(out)
    witness.compare(reference)


@needs_proc
def test_a_full_disk_then_two_sweeps_at_once(lab, reference):
    """No file can grow over 40 kB: records can be written, checkpoints cannot."""
    out = lab.folder / "full"
    witness = Witness(out)
    sweep = lab.start(out, largest_file=40_000)
    assert sweep.wait() == 1, sweep.output
    assert "File too large" in sweep.output
    # Shared phases are not compared.
    assert "4 of 4 runs ended without a loss (4 failed), the first: " in sweep.output
    assert not len(witness.check())

    both = [lab.start(out, workers=1) for _ in range(2)]
    while not all(sweep.ended for sweep in both):
        witness.check()
        time.sleep(0.5)
    assert [sweep.wait() for sweep in both] == [0, 0], [sweep.output for sweep in both]
    witness.compare(reference)


# Checkpoints


@pytest.fixture(scope="module")
def data(text_folder):
    return tokenise(load_corpus(str(text_folder)), 300)


@pytest.fixture
def cut(data, tmp_path):
    """A run, and the folder of its only checkpoint."""
    recipe = Recipe(val_tokens=4096, warmup_tokens=5120)
    shape = architecture_for(12e3, data.vocab_size, prefix_tokens=4).with_streams(2)
    config = RunConfig(shape, whole_steps(41e3, recipe), 0, data.text, recipe)

    def stop(state: TrainState) -> None:
        if state.step >= 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_run(config, data, Options(checkpoints=tmp_path, save_every_s=0.0, observer=stop))
    return config, tmp_path / config.key


def load(config, folder):
    model = build_model(config)
    return load_newest(folder, config.steps, model, make_optimizer(model, config.recipe, 1.0))


def test_a_changed_bit_of_a_checkpoint_makes_it_none(cut):
    config, folder = cut
    (kept,) = folder.iterdir()
    assert load(config, folder) is not None
    rng = random.Random(0)
    for file in kept.iterdir():
        content = file.read_bytes()
        for _ in range(8):
            changed = bytearray(content)
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            file.write_bytes(changed)
            assert load(config, folder) is None
        file.write_bytes(content)
    assert load(config, folder) is not None


def test_what_a_killed_process_had_begun_goes_when_it_is_old(cut, monkeypatch):
    config, folder = cut
    unfinished = folder / ".building-killed"
    unfinished.mkdir()
    (unfinished / "weights.safetensors").write_bytes(bytes(100))
    model = build_model(config)
    optimizer = make_optimizer(model, config.recipe, 1.0)
    save_state(folder, model, optimizer, TrainState(step=50))
    keep_latest(folder)
    assert saved_steps(folder) == [50]
    assert unfinished.exists()  # as if another process were writing it
    monkeypatch.setattr(checkpoint, "_STALE_S", -1.0)
    save_state(folder, model, optimizer, TrainState(step=60))
    assert not unfinished.exists()
    assert saved_steps(folder) == [60, 50]
    assert saved_steps(folder / "none") == []


def test_readers_pass_over_a_folder_that_is_removed_meanwhile(tmp_path):
    for name in ("a", "b"):
        checkpoint_path(tmp_path / "checkpoints" / name, 1).mkdir(parents=True)
        (checkpoint_path(tmp_path / "checkpoints" / name, 1) / "state.json").touch()
    (tmp_path / "note").touch()
    files = walk(tmp_path)
    assert next(files).name == "note"
    shutil.rmtree(tmp_path / "checkpoints" / "a")
    assert [file.name for file in files] == ["state.json"]
    with pytest.raises(FileNotFoundError):
        list(walk(tmp_path / "none"))
