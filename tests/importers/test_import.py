"""Runs of other tools, each written in the test by the tool's own library."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scalelab import records
from scalelab.errors import DataError, UsageError
from scalelab.importers import import_runs, write_runs
from scalelab.records.files import read_curve

STEPS = (10, 20, 30)
SIZES = {"small": 1_000_000, "large": 4_000_000}


def loss_of(n: float, step: int) -> float:
    return 2.0 + (1e5 / n) ** 0.3 + 5.0 / step


def tokens_of(step: int) -> int:
    return step * 100_000


def check(imported, folder, n_runs=2):
    """Records and curves as they were logged, also once written and read."""
    assert len(imported.table) == n_runs
    files = write_runs(imported, folder)
    table = records.read(folder).records.sort_values("n_params")
    assert len(files) == len(table) == n_runs
    for row, n in zip(table.to_dict("records"), sorted(SIZES.values()), strict=True):
        assert row["n_params"] == n
        assert row["n_tokens"] == tokens_of(30)
        assert row["n_streams"] == 1
        assert row["loss"] == pytest.approx(loss_of(n, 30), rel=1e-6)
        provenance = json.loads(row["config"])["imported"]
        assert len(provenance["sha256"]) == 64
        assert provenance["columns"]["loss"]
        curve = read_curve(folder / "curves" / f"{row['key']}.parquet")
        assert curve["step"].tolist() == list(STEPS)
        assert curve["loss"].tolist() == pytest.approx([loss_of(n, s) for s in STEPS], rel=1e-6)


def test_wandb_offline_runs(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name, n in SIZES.items():
        run = wandb.init(project="p", name=name, config={"model": {"n_params": n}, "lr": 1e-3}, dir=str(tmp_path))
        for step in STEPS:
            run.log({"eval/loss": loss_of(n, step), "tokens": tokens_of(step)}, step=step)
        run.finish()
    wandb.teardown()  # its process may still be writing
    (tmp_path / "wandb" / "run-begun.wandb").write_bytes(b":W&B" + bytes(3))
    with pytest.raises(DataError, match=r"run-begun\.wandb: run 'begun': has no rows; it ended before it logged any"):
        import_runs(tmp_path / "wandb")
    imported = import_runs(tmp_path / "wandb", strict=False)
    assert len(imported.errors) == 1
    check(imported, tmp_path / "out")
    assert imported.columns["n_params"] == "model.n_params"
    assert imported.table["peak_lr"].tolist() == [1e-3, 1e-3]


def test_tensorboard_event_files(tmp_path):
    writer_of = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    for name, n in SIZES.items():
        with writer_of(str(tmp_path / "logs" / name)) as writer:
            for step in STEPS:
                writer.add_scalar("eval/loss", loss_of(n, step), step)
                writer.add_scalar("train/tokens", tokens_of(step), step)
    imported = import_runs(tmp_path / "logs", n_from={"small": 1e6, "la*": "4M"})
    check(imported, tmp_path / "out")


def test_trainer_states_of_which_the_last_checkpoint_counts(tmp_path):
    from transformers.trainer_callback import TrainerState

    for name, n in SIZES.items():
        for last in (20, 30):
            history = [
                {"loss": 9.0, "step": s}
                | {"eval_loss": loss_of(n, s), "num_input_tokens_seen": tokens_of(s), "step": s}
                for s in STEPS
                if s <= last
            ]
            state = TrainerState(global_step=last, log_history=history)
            folder = tmp_path / "runs" / name / f"checkpoint-{last}"
            folder.mkdir(parents=True)
            state.save_to_json(str(folder / "trainer_state.json"))
    imported = import_runs(tmp_path / "runs", n_from=SIZES)
    check(imported, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The ``noload``")
@pytest.mark.parametrize("store", ["file", "sqlite"])
def test_mlflow_stores(tmp_path, store, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    place = tmp_path / ("mlruns" if store == "file" else "mlflow.db")
    uri = place.as_uri() if store == "file" else f"sqlite:///{place}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("scaling", artifact_location=str(tmp_path / "artifacts"))
    for name, n in SIZES.items():
        run = client.create_run(experiment, run_name=name)
        client.log_param(run.info.run_id, "n_params", n)
        for step in STEPS:
            client.log_metric(run.info.run_id, "val_loss", loss_of(n, step), step=step)
            client.log_metric(run.info.run_id, "tokens", tokens_of(step), step=step)
        client.set_terminated(run.info.run_id)
    check(import_runs(place), tmp_path / "out")


def test_trackio_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    storage = pytest.importorskip("trackio.sqlite_storage", exc_type=ImportError).SQLiteStorage
    for name, n in SIZES.items():
        storage.bulk_log(
            "project",
            name,
            [{"val_loss": loss_of(n, s), "tokens": tokens_of(s)} for s in STEPS],
            steps=list(STEPS),
            config={"n_params": n},
        )
    (file,) = Path(os.environ["TRACKIO_DIR"]).rglob("*.db")
    check(import_runs(file), tmp_path / "out")


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_files_of_ones_own_a_file_a_run(tmp_path, form):
    (tmp_path / "runs").mkdir()
    for name, n in SIZES.items():
        table = pd.DataFrame(
            {"_step": STEPS, "eval/a/ce": [loss_of(n, s) for s in STEPS], "seen": [tokens_of(s) for s in STEPS]}
        )
        path = tmp_path / "runs" / f"{name}-1x.{form}"
        if form == "csv":
            table.to_csv(path, index=False)
        elif form == "json":
            path.write_text(table.to_json(orient="records"))
        else:
            table.to_parquet(path)
    imported = import_runs(
        tmp_path / "runs", columns={"loss": "eval/a/ce", "n_tokens": "seen"}, n_from={"small": "1M", "large": "4M"}
    )
    check(imported, tmp_path / "out")
    computed = import_runs(tmp_path / "runs", columns={"loss": "eval/a/ce", "n_tokens": "step*1e5"}, n_from=SIZES)
    assert computed.table["n_tokens"].tolist() == [3_000_000] * 2


def test_what_cannot_be_imported_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        import_runs(tmp_path / "nowhere")
    folder = tmp_path / "runs"
    folder.mkdir()
    pd.DataFrame({"step": STEPS, "q": [1.0, 2.0, 3.0]}).to_csv(folder / "a.csv", index=False)
    with pytest.raises(
        DataError, match=r"no column for n_params; map one with `columns={'n_params': COLUMN}`, or give N by run name"
    ):
        import_runs(folder)
    with pytest.raises(DataError, match="no column for loss"):
        import_runs(folder, n_from={"a": 1e6})
    with pytest.raises(DataError, match=r"run 'a': its name matches no pattern of `n_from` \(b\)"):
        import_runs(folder, columns={"loss": "q"}, n_from={"b": 1e6})
    pd.DataFrame({"step": STEPS, "q": [np.nan] * 3}).to_csv(folder / "b.csv", index=False)
    kept = import_runs(folder, columns={"loss": "q"}, n_from={"a": 1e6, "b": 1e6}, strict=False)
    assert len(kept.table) == 1
    assert "run 'b': no loss in column 'q'" in kept.errors[0]
    with pytest.raises(DataError, match="no loss in column"):
        import_runs(folder, columns={"loss": "q"}, n_from={"a": 1e6, "b": 1e6})


def test_the_command_imports_twice_and_keeps_what_is_there(scalelab, tmp_path):
    (tmp_path / "runs").mkdir()
    for name, n in SIZES.items():
        rows = [{"step": s, "val_loss": loss_of(n, s), "tokens": tokens_of(s)} for s in STEPS]
        pd.DataFrame(rows).to_csv(tmp_path / "runs" / f"{name}.csv", index=False)
    (tmp_path / "sizes.yaml").write_text("small: 1000000\nlarge: 4M\n")
    for _ in range(2):
        code, out, _ = scalelab("import", "runs", "-o", "o", "--n-from", "sizes.yaml")
        assert code == 0
        assert "using 'tokens' as n_tokens, 'val_loss' as loss" in out
    assert len(list((tmp_path / "o" / "runs").iterdir())) == 2
    code, out, _ = scalelab("results", "o")
    assert (code, "2 runs: 2 ok" in out) == (0, True)
