"""Tasks by name: those of `items`, made from held-out text, and any of lm-eval, by name or from a YAML file."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from scalelab.errors import DataError, MissingPackageError, ScalelabError, UsageError, first_line
from scalelab.evaluation.items import BY_GAIN, ITEMS, TASKS, Item, make_items

_YAML = (".yaml", ".yml")
_PROGRAMS = ".jsonl"


@dataclass(frozen=True)
class TaskSet:
    """Tasks that every model gets in the same form. It can be sent to other processes.

    Attributes:
        items: Items by name, for tasks made from held-out text.
        others: Names and YAML files of lm-eval's tasks.
        download: Let lm-eval download what is missing.
        fewshot: Solved examples before each question; by default the task's own number.
        programs: Files of tasks whose answers are programs.
    """

    items: dict[str, list[Item]] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    download: bool = False
    fewshot: int | None = None
    programs: tuple[str, ...] = ()

    def load(self, tokenizer: Any = None) -> dict[str, Any]:
        """Return lm-eval's task objects by name, all members of a group included.

        Args:
            tokenizer: Tokenizer for tasks that make texts of a given number of tokens, such as RULER's.

        Raises:
            UsageError: There is no such task, or it needs code that is not run here.
            DataError: A task's data are not on this machine, or its file is damaged.
        """
        need_lm_eval()
        with quiet(), _same_draws(), _saved(tokenizer if self.others else None) as folder:
            parts = [{name: _local_task(name, items)} for name, items in self.items.items()]
            parts += [_programs(Path(name)) for name in self.programs]
            parts += [_harness_tasks(name, self.download, folder) for name in self.others]
        found: dict[str, Any] = {}
        for name, task in (pair for part in parts for pair in part.items()):
            if name in found:
                raise UsageError("two of them have this name", argument="tasks", value=name)
            found[name] = task
            if getattr(task, "UNSAFE_CODE", False):
                reason = "runs code that a model wrote, outside a sandbox; give its problems as a .jsonl file"
                raise UsageError(reason, argument="tasks", value=name)
            if getattr(task, "MULTIMODAL", False):
                raise UsageError("needs images or sound, which is not supported", argument="tasks", value=name)
            if self.fewshot is not None and task.get_config("num_fewshot") != 0:
                task.set_config(key="num_fewshot", value=self.fewshot)
            elif task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
        return found


def need_lm_eval() -> None:
    """Raise `MissingPackageError` if lm-eval is not installed, without importing it."""
    if find_spec("lm_eval") is None:
        raise MissingPackageError("tasks need lm_eval, which is not installed: pip install 'scalelab[eval]'")


def task_set(
    names: Sequence[str],
    held_out: Callable[[], tuple[str, Sequence[str]]],
    *,
    items: int = ITEMS,
    seed: int = 0,
    download: bool = False,
    fewshot: int | None = None,
    run_code: bool = False,
) -> TaskSet:
    """Return the tasks of `names`.

    Args:
        names: Names in `TASKS`, names of lm-eval's tasks, paths of its YAML files, or of JSON lines with programs.
        held_out: Function that reads the name and the documents of the held-out text; called only if they are needed.
        items: The most items of a task made from that text.
        seed: Seed of those items.
        download: Let lm-eval download what is missing.
        fewshot: Solved examples before each question.
        run_code: Allow tasks of JSON lines, which run programs that the model writes, in a sandbox.

    Raises:
        UsageError: There is no task, or one is named twice.
        DataError: The held-out text is too short.
    """
    if not names:
        raise UsageError(f"give at least one of {', '.join(TASKS)}, or a task of lm-eval", argument="tasks")
    for name in names:
        if list(names).count(name) > 1:
            raise UsageError("is there twice", argument="tasks", value=name)
        if Path(name).suffix in (*_YAML, _PROGRAMS) and not Path(name).is_file():
            raise UsageError("no such file", argument="tasks", value=name)
        if Path(name).suffix == _PROGRAMS and not run_code:
            reason = "runs programs that the model writes, in a sandbox; allow it with `run_code`"
            raise UsageError(reason, argument="tasks", value=name)
    made: dict[str, list[Item]] = {}
    if any(name in TASKS for name in names):
        source, documents = held_out()
        made = {name: make_items(name, documents, source, items, seed) for name in names if name in TASKS}
    programs = tuple(name for name in names if Path(name).suffix == _PROGRAMS)
    others = tuple(name for name in names if name not in (*TASKS, *programs))
    return TaskSet(made, others, download, fewshot, programs)


def documents_digest(documents: Sequence[Any]) -> str:
    """Return a hash of a task's documents, 16 hex digits, by which results can be paired."""
    text = json.dumps(list(documents), sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's and datasets' bars and messages off standard error."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "evaluate")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _local_task(name: str, items: Sequence[Item]) -> Any:
    """Return a task of lm-eval whose documents are `items`."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    rows = [item.as_dict() for item in items]
    metric = "acc_mutual_info" if name in BY_GAIN else "acc"
    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": lambda doc: doc["context"],
            "doc_to_choice": lambda doc: doc["choices"],
            "doc_to_target": lambda doc: doc["answer"],
            "target_delimiter": "",
            "num_fewshot": 0,
            "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
        }
    )


def _programs(file: Path) -> dict[str, Any]:
    from scalelab.evaluation.programs import program_task

    return {file.stem: program_task(file)}


@contextmanager
def _same_draws() -> Iterator[None]:
    """Start the global random numbers anew: tasks that make their data use them, and all models get the same data."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - tasks of lm-eval use these
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


@contextmanager
def _saved(tokenizer: Any) -> Iterator[str]:
    """Yield a folder with the tokenizer, from which tasks open it while they make their data; empty without one.

    They allow code from that folder to run, so it has none and names none.
    """
    if tokenizer is None:
        yield ""
        return
    with TemporaryDirectory(prefix="scalelab-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        config = Path(folder, "tokenizer_config.json")
        known = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps({key: v for key, v in known.items() if key != "auto_map"}), encoding="utf-8")
        yield folder


def _harness_tasks(name: str, download: bool, folder: str) -> dict[str, Any]:
    """Return the task objects of lm-eval for a name or a YAML file, by name; `folder` has a tokenizer, or is empty."""
    is_file = Path(name).suffix in _YAML
    manager = _manager(with_defaults=not is_file)
    manager.metadata["tokenizer"] = folder
    if not is_file and name not in manager.all_tasks:
        near = get_close_matches(name, [*TASKS, *manager.all_tasks], 1, 0.6)
        meant = f"did you mean {near[0]}? " if near else ""
        reason = f"no such task; {meant}use one of {', '.join(TASKS)}, a task of lm-eval or a YAML file"
        raise UsageError(reason, argument="tasks", value=name)
    try:
        with _network(download):
            return dict(manager.load([name])["tasks"])
    except ScalelabError:
        raise
    except Exception as error:  # YAML, data sets and functions of tasks raise whatever they like
        if not download and _is_missing_data(error):
            raise DataError(
                f"task {name}: its data are not on this machine; get them once with `download`, or use a YAML "
                "file with local data"
            ) from None
        if not folder and "tokenizer" in str(error):
            raise UsageError(
                "makes its data with a tokenizer, so score saved models on it", argument="tasks", value=name
            ) from None
        raise DataError(f"task {name}: lm-eval cannot load it ({type(error).__name__}: {first_line(error)})") from None


@cache
def _manager(with_defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=with_defaults, metadata={"tokenizer": ""})  # later calls fill it in


def _is_missing_data(error: BaseException) -> bool:
    """Return true if a data set is neither in the cache nor may be downloaded."""
    chain: BaseException | None = error
    while chain is not None:
        kinds = {kind.__name__ for kind in type(chain).__mro__}
        if kinds & {"OfflineModeIsEnabled", "ConnectionError", "LocalEntryNotFoundError", "DatasetNotFoundError"}:
            return True
        if "offline" in str(chain).lower():
            return True
        chain = chain.__cause__ or chain.__context__
    return False


@contextmanager
def _network(download: bool) -> Iterator[None]:
    """Keep datasets, the Hub's client and nltk from the network, unless downloads are wanted."""
    if download:
        yield
        return
    import datasets.config
    import huggingface_hub.constants

    values: list[tuple[Any, str, Any]] = [(datasets.config, "HF_HUB_OFFLINE", True)]
    values += [(datasets.config, "HF_DATASETS_OFFLINE", True)]
    values += [(huggingface_hub.constants, "HF_HUB_OFFLINE", True)]
    if find_spec("nltk") is not None:
        import nltk

        values += [(nltk, "download", _no_download)]
    before = [getattr(module, name) for module, name, _ in values]
    for module, name, value in values:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(values, before, strict=True):
            setattr(module, name, value)


def _no_download(name: str, *_: Any, **__: Any) -> None:
    raise ConnectionError(f"nltk's {name} is not on this machine")
