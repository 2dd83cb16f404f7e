"""Tasks whose answers are programs, in HumanEval's form: run in the sandbox, and right if their tests pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scalelab.errors import DataError
from scalelab.evaluation.sandbox import Limits, run_program

_KEYS = ("prompt", "test", "entry_point")
_ENDS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\nassert")
_NEW_TOKENS = 256
_LIMITS = Limits()


def program_task(file: Path, limits: Limits = _LIMITS) -> Any:
    """Return a task of lm-eval from JSON lines with prompt, test and entry_point.

    The model continues the prompt greedily up to the end of the function. The program is the prompt, this text, the
    test, which defines ``check``, and a call of it with the function `entry_point`.

    Raises:
        DataError: The file is damaged, or a line lacks a key.
    """
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    rows = _read(file)

    def process(row: dict[str, Any], answers: list[str]) -> dict[str, float]:
        program = f"{row['prompt']}{answers[0]}\n{row['test']}\ncheck({row['entry_point']})\n"
        return {"pass@1": float(run_program(program, limits).passed)}

    return ConfigurableTask(
        config={
            "task": file.stem,
            "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": lambda row: row["prompt"],
            "doc_to_target": lambda row: row["entry_point"],
            "process_results": process,
            "generation_kwargs": {"until": list(_ENDS), "max_gen_toks": _NEW_TOKENS, "do_sample": False},
            "num_fewshot": 0,
            "metric_list": [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}],
        }
    )


def _read(file: Path) -> list[dict[str, str]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in _KEYS):
            raise DataError(f"{file}, line {number}: not a JSON object with the texts {', '.join(_KEYS)}")
        rows.append({key: row[key] for key in _KEYS})
    if not rows:
        raise DataError(f"{file}: no line with a program")
    return rows
