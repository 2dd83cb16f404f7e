"""Read runs of other tools as histories and configs, by the library of the tool if possible."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from scalelab.errors import DataError, UsageError
from scalelab.records.files import FORMATS, read_file
from scalelab.records.text import inner_suffix
from scalelab.yaml_text import load_yaml, read_yaml_text

_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")


@dataclass(frozen=True)
class History:
    """One run: a table with a row per logged step and a column `step`, and the config."""

    run: str
    table: pd.DataFrame
    file: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    status: str = "ok"


def read_trainer(source: Path) -> Iterator[History]:
    """Read `trainer_state.json` of Hugging Face's Trainer, from the last checkpoint of each run."""
    last: dict[Path, tuple[int, Path]] = {}
    for file in [source] if source.is_file() else sorted(source.rglob("trainer_state.json")):
        match = _CHECKPOINT.match(file.parent.name)
        run, step = (file.parent.parent, int(match[1])) if match else (file.parent, 2**62)
        last[run] = max(last.get(run, (-1, file)), (step, file))
    for run, (_, file) in last.items():
        state = _json(file)
        rows = state.get("log_history") if isinstance(state, dict) else None
        if not isinstance(rows, list):
            raise DataError(f"{file}: not a Trainer state: the list 'log_history' is missing")
        config = {
            k: v for k, v in state.items() if isinstance(v, (int, float, str)) and k not in ("epoch", "global_step")
        }
        beside = run / "config.json"
        config |= _flat(_json(beside)) if beside.is_file() else {}
        yield History(_run_name(run, source), pd.json_normalize(rows), file, config)


def read_tensorboard(source: Path) -> Iterator[History]:
    """Read TensorBoard event files, one run per folder."""
    _need("tensorboard", "TensorBoard's event files")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted(source.rglob("*tfevents*")) if source.is_dir() else [source]
    for folder in dict.fromkeys(file.parent for file in files):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        columns: dict[str, dict[int, float]] = {}
        for tag in events.Tags()["scalars"]:
            columns[tag] = {event.step: event.value for event in events.Scalars(tag)}
        if columns:
            table = pd.DataFrame(columns).sort_index().rename_axis("step").reset_index()
            yield History(_run_name(folder, source), table, sorted(folder.glob("*tfevents*"))[0])


def read_wandb(source: Path) -> Iterator[History]:
    """Read W&B's offline run folders (`wandb/offline-run-*`, `run-*.wandb`)."""
    _need("wandb", "W&B's run folders")
    from wandb.proto import wandb_internal_pb2

    for file in [source] if source.is_file() else sorted(source.rglob("run-*.wandb")):
        rows, config, name = [], {}, file.stem.removeprefix("run-")
        status = "interrupted"
        for data in _wandb_records(file):
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]  # created on import
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "history":
                rows.append({".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
            elif kind in ("run", "config"):
                updates = record.run.config.update if kind == "run" else record.config.update
                config |= {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in updates}
                name = (record.run.display_name if kind == "run" else "") or name
            elif kind == "exit":
                status = "ok" if record.exit.exit_code == 0 else "failed"
        config = {k: v for k, v in _flat(config).items() if not k.startswith("_wandb")}
        yield History(name, pd.json_normalize(rows).rename(columns={"_step": "step"}), file, config, status)


def _wandb_records(file: Path) -> Iterator[bytes]:
    """Yield the records of a .wandb file: LevelDB's log format, blocks of 32 KiB after a header of 7 bytes.

    Stops where the file is truncated. Raises `DataError` for a file of another format.
    """
    content = file.read_bytes()
    if content[:4] != b":W&B":
        raise DataError(f"{file}: not a W&B run file")
    offset, parts = 7, []
    while offset + 7 <= len(content):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        length, kind = int.from_bytes(content[offset + 4 : offset + 6], "little"), content[offset + 6]
        part = content[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind not in (1, 2, 3, 4) or len(part) < length:  # truncated
            return
        parts = [part] if kind in (1, 2) else [*parts, part]
        if kind in (1, 4):  # a complete record, or its last part
            yield b"".join(parts)


def read_mlflow(source: Path) -> Iterator[History]:
    """Read an MLflow store: a folder `mlruns`, or a SQLite file."""
    _need("mlflow", "MLflow's stores")
    from mlflow.tracking import MlflowClient

    uri = source.resolve().as_uri() if source.is_dir() else f"sqlite:///{source.resolve()}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow, about its dependencies
        yield from _mlflow_runs(MlflowClient(tracking_uri=uri), source)


def _mlflow_runs(client: Any, source: Path) -> Iterator[History]:
    words = {"FINISHED": "ok", "FAILED": "failed", "KILLED": "interrupted", "RUNNING": "interrupted"}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], max_results=50_000):
            columns = {
                key: {point.step: point.value for point in client.get_metric_history(run.info.run_id, key)}
                for key in run.data.metrics
            }
            table = pd.DataFrame(columns).sort_index().rename_axis("step").reset_index()
            name = run.info.run_name or run.info.run_id
            yield History(name, table, source, dict(run.data.params), words.get(run.info.status, "interrupted"))


def read_trackio(source: Path) -> Iterator[History]:
    """Read trackio's SQLite files, one per project."""
    import sqlite3
    from contextlib import closing

    for file in [source] if source.is_file() else sorted(source.rglob("*.db")):
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as store:
            try:
                rows = store.execute("SELECT run_name, step, metrics FROM metrics ORDER BY run_name, step").fetchall()
            except sqlite3.DatabaseError as error:
                raise DataError(f"{file}: not a trackio file ({error})") from None
            try:
                configs = dict(store.execute("SELECT run_name, config FROM configs").fetchall())
            except sqlite3.DatabaseError:  # older versions have no configs
                configs = {}
        logged: dict[str, list[dict[str, Any]]] = {}
        for name, step, metrics in rows:
            logged.setdefault(name, []).append({"step": step, **_flat(json.loads(metrics))})
        for name, history in logged.items():
            config = _flat(json.loads(configs[name])) if configs.get(name) else {}
            yield History(name, pd.DataFrame(history), file, config)


def read_files(source: Path) -> Iterator[History]:
    """Read a folder of tables, one file per run, such as CSV exports of W&B."""
    files = [source] if source.is_file() else sorted(f for f in source.rglob("*") if inner_suffix(f) in FORMATS)
    for file in files:
        table = read_file(file).table
        if len(table):
            yield History(_run_name(file.with_suffix(""), source), table.rename(columns={"_step": "step"}), file)


Reader = Callable[[Path], Iterator[History]]
KINDS: dict[str, Reader] = {
    "wandb": read_wandb,
    "trainer": read_trainer,
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
    "files": read_files,
}
_SIGNS = {
    "wandb": "run-*.wandb",
    "trainer": "trainer_state.json",
    "tensorboard": "*tfevents*",
    "mlflow": "meta.yaml",
    "trackio": "*.db",
}


def kind_of(source: Path) -> str:
    """Return which of `KINDS` wrote `source`. Raises `UsageError` if there is no such file or folder."""
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder")
    if source.is_file():
        if source.suffix in (".db", ".sqlite", ".sqlite3"):
            return "mlflow" if _has_table(source, "experiments") else "trackio"
        found = [kind for kind, sign in _SIGNS.items() if source.match(sign)]
        return found[0] if found else "files"
    return next((kind for kind, sign in _SIGNS.items() if next(source.rglob(sign), None)), "files")


def _has_table(file: Path, name: str) -> bool:
    import sqlite3
    from contextlib import closing

    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as store:
            found = store.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone()
    except sqlite3.DatabaseError as error:
        raise DataError(f"{file}: not a SQLite file ({error})") from None
    return found is not None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable JSON ({error})") from None


def read_map(file: Path) -> dict[str, Any]:
    """Return a mapping from a YAML or JSON file. Raises `DataError` if it is not one."""
    try:
        value = load_yaml(read_yaml_text(file), str(file))
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{file}: not a mapping of names to numbers of parameters, such as 190M: 190354176")
    return {str(k): v for k, v in value.items()}


def _flat(value: Any, above: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with keys joined by dots and without lists; W&B's {"value": x} becomes x."""
    if not isinstance(value, dict):
        return {above: value} if isinstance(value, (int, float, str)) and above else {}
    if set(value) <= {"value", "desc"} and "value" in value and above:
        return _flat(value["value"], above)
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{above}.{key}" if above else str(key))
    return found


def _run_name(path: Path, source: Path) -> str:
    try:
        name = str(path.relative_to(source))
    except ValueError:
        name = path.name
    return path.name if name == "." else name


def _need(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise UsageError(f"{what} need the package {package}: pip install {package}")
