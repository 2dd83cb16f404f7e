"""Translation of the library's errors and messages to the command line: arguments become flags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from scalelab.errors import ScalelabError

# Arguments whose flag differs from their name.
_FLAGS = {
    "columns": "--map",
    "convention": "--count",
    "bounds": "--bound",
    "seeds": "--seed",
    "settings": "--set",
    "out": "-o",
    "part": "--train",
    "compile_model": "--compile",
    "kind": "--figures",
    "size": "--figure-size",
    "source_kind": "--kind",
    **{name: f"--at {name}=" for name in ("C", "U", "X", "R", "B")},
    "list_hardware": "scalelab cost --list-hardware",
    "on": "--device",
    "run_sweep": "scalelab sweep",
    "reserve_bytes": "--reserve",
    "launch_s": "--launch-us",
}
_PLAIN = (
    *("N", "P", "D", "address", "aggregation", "backbone", "batch", "batch_size", "beta", "bootstrap", "by", "chat"),
    *("checkpoint_minutes", "preference", "system"),
    *("compute", "corpus", "count", "data", "delta", "descending", "device", "draws", "dtype", "engine", "executor"),
    *(
        "figure",
        "figure_format",
        "figure_kind",
        "figure_size",
        "fit",
        "fix",
        "flops",
        "flops_efficiency",
        "gpu",
        "hardware",
        "heads",
        "hidden",
        "intermediate",
    ),
    *("interval", "kv", "kv_heads", "law", "layers", "lengths", "loss", "lr", "max_P", "max_new_tokens", "measure"),
    *("memory", "memory_efficiency", "latency", "model", "objective", "per_gpu", "plain_tokens", "prefix_tokens"),
    *("preset", "prompt", "quarantine", "save_profile", "schedule", "second_stage_fraction", "seconds", "seed"),
    *("seq_len", "shapes", "sort", "start", "starts", "temperature", "tensorboard", "text_column", "threads"),
    *("tokenizer", "tokens", "tokens_in", "tokens_out", "top_p", "train_flops", "val_tokens", "vocab", "weights"),
    *("where", "workers", "csv", "json", "strict", "retry", "save_models", "details"),
    *("deterministic", "fp32_precision", "micro_batch", "together", "runtime", "launch_us", "reserve"),
    *("tensor_parallel", "price_per_hour", "watts", "ttft", "tpot", "train_gpu"),
    *("points", "best", "tie", "average", "run", "force", "n_from", "port"),
    *("tasks", "limit", "num_fewshot", "download", "records", "run_code"),
    *("budgets", "basis", "window", "against", "names", "factor", "test_draws", "isoflop"),
    *("baseline", "each", "ignore", "along", "value"),
    *("serve_tokens", "constants", "train_utilisation", "train_price_per_hour"),
    *("register", "rollout", "losses", "smooth", "hold_out"),
    *("target", "budget", "candidates", "price", "laws", "most", "update"),
)
FLAGS: Mapping[str, str] = {name: f"--{name.replace('_', '-')}" for name in _PLAIN} | _FLAGS
_REFERENCE = re.compile(r"`([A-Za-z_]+)(?:=([^`]*))?`")
_PAIR = re.compile(r"""['"](\w+)['"]: *([^,}]+)""")


def as_typed(text: str, flags: Mapping[str, str] = FLAGS) -> str:
    """Return a message with its arguments in backquotes as flags: `` `device='cpu'` `` becomes ``--device cpu``."""

    def flag(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if name not in flags:
            return match[0]
        if value is None:
            return flags[name]
        if value.startswith("{"):
            return f"--map {' '.join(f'{key}={_bare(of)}' for key, of in _PAIR.findall(value))}"
        return f"{flags[name]} {_bare(value)}"

    return _REFERENCE.sub(flag, text)


def _bare(value: str) -> str:
    """Return a quoted word without quotes, unless a shell needs them."""
    inner = value.strip().strip("'\"")
    return value.strip() if re.search(r"[^\w./:+-]", inner) else inner


def describe(error: ScalelabError, command: str = "") -> str:
    """Return an error as one line that names the flag."""
    flags = {**FLAGS, **({"columns": "--columns"} if command == "results" else {})}
    name = error.argument
    if name is None or name not in flags:
        return as_typed(str(error), flags)
    head = flags[name]
    if error.shows_value:
        head = f"{'--map' if isinstance(error.value, Mapping) and name == 'columns' else head} {_shown(error.value)}"
    return as_typed(f"{head}: {error.reason}", flags)


def _shown(value: Any) -> str:
    """Return a value as typed on the command line."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_shown(of)}" for name, of in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return repr(value) if isinstance(value, str) and " " in value else str(value)
