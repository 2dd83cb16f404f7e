"""Write the reference pages that follow from the code: command line, laws, spec keys, records, devices, api.md.

Run `python docs/generate_reference.py` after a change to any of them; `tests/docs/test_reference.py` compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer

import scalelab as sl
from scalelab.cli.flags import as_typed
from scalelab.cli.main import app
from scalelab.laws import LAWS, Law
from scalelab.records.schema import RECORD_SCHEMA
from scalelab.reports.advice import ADVICE
from scalelab.status import RunStatus
from scalelab.sweep.spec import AXES, SweepSpec
from scalelab.train.recipe import Recipe
from scalelab.units import format_count

DOCS = Path(__file__).parent
MADE = "<!-- Made by `python docs/generate_reference.py`: change the code, not this page. -->\n\n"

LAWS_HEAD = r"""# Laws

Losses are in nats per token. N is parameters, P parallel streams, D training tokens, C training FLOPs, U unique
tokens, X experts, η the peak learning rate, and B as a variable the batch size. A power is written $(A/N)^\alpha$,
so A is a number of parameters: Hoffmann's 406.4 / N^0.34 is A = 406.4^(1/0.34). [Pick a
law](../how-to/pick-a-law.md) says how to choose, and [write a law of your own](../how-to/own-law.md) how to add
one."""
SPEC_HEAD = r"""# Spec keys

A spec is a YAML file for `scalelab sweep`. Any key may be left out. Those marked *several* may hold a list: every
combination is trained. Flags override the spec, and `--set KEY=VALUE` reaches every key, `--set recipe.KEY=VALUE`
those of the recipe. [Write a sweep](../how-to/write-a-sweep.md) shows examples."""
RECORDS_HEAD = r"""# Records

A record is one row per run, in a Parquet file. It is the only thing that training and analysis share: a sweep or
`scalelab import` writes records, `scalelab fit`, `compare` and `results` read them. Only runs with status `ok`
enter a fit. A table of your own needs a loss and one variable of a law; see [fit your own
table](../tutorials/your-table.md).

A folder is read with all folders below it, except those whose names begin with `_`: name these to read them. A run that
was repeated, such as on another machine, counts once. Its losses may differ by rounding that training amplifies; a
difference of over 1 % is an error."""
ACCURACIES = r"""Runs of a sweep with `eval` have three more columns for each task, such as `accuracy_next_line`,
`accuracy_next_line_stderr` and `accuracy_next_line_docs`: the share of right answers, its standard error, and the
number of documents. In a fit and in `--where`, `error_next_line` is 1 − `accuracy_next_line`. See [evaluate on
downstream tasks](../how-to/evaluate.md)."""
NOTES_HEAD = r"""# Notes and warnings

A fit says what its numbers cannot carry. Each note has a severity and a code, which `--json` and `fit.notes` give to
programs:

- **serious**: the numbers must not be used as they are. `--strict` makes the command fail.
- **warning**: some numbers mean less than they seem to.
- **note**: good to know."""
STREAM_WARNINGS = "Of sweeps' records (`stream_warnings`) and `scalelab diagnose`."
DEVICES_HEAD = r"""# Devices

Peaks are dense, in TFLOP/s (a multiply-add is two). Bandwidth is in GB/s, memory in GiB. A figure marked ? has not
been checked against its source. Prices are US dollars an hour on demand. `scalelab cost --list-hardware` prints
this table; add a device with `--hardware FILE`, or [measure one](../how-to/measure-a-device.md)."""

# When to use a law, in a sentence; every law of the package has one.
LAW_USES = {
    "parallel": "The default, for runs with several P at one D. ParScale's own law: P streams act as N·(k ln P + 1) "
    "parameters.",
    "power": "Each doubling of P is worth the same factor of N, without an end. Compare its γ with the reuse exponents "
    "of looped models.",
    "peaked": "The gain of P has an optimum, after which more streams lose.",
    "diversity": "Streams as partly correlated predictors. ρ = 1: copies, no gain.",
    "additive": "The gain of P is the same at every N. Best supported on the published losses.",
    "chinchilla": "Plain runs with several N and several D.",
    "farseer": "As `chinchilla`, where the exponent of D changes with N. Needs many runs: nine parameters.",
    "joint": "Runs that vary N, D and P.",
    "joint-power": "As `joint`, with the gain of P as a power.",
    "joint-additive": "As `joint`, with a gain of P that does not depend on N or D.",
    "compute": "Loss over training compute alone, for runs along a fixed ratio of D to N.",
    "params": "Loss over N alone, at one D.",
    "tokens": "Loss over D alone, at one N.",
    "broken-compute": "Loss over compute where the slope changes once on the way.",
    "broken-params": "Loss over N where the slope changes once.",
    "broken-tokens": "Loss over D where the slope changes once.",
    "data-constrained": "Runs that repeat their data: U is the number of unique tokens.",
    "experts": "Mixtures of experts: X is the number of experts, or total over active parameters.",
    "experts-started": "The same for all N, and the first experts add less than a power of their number says.",
    "loops": "Streams beside passes through the same layers: R is the number of passes.",
    "lr-batch": "Tuning sweeps: the loss around its best learning rate and batch size, which are powers of N and D.",
}
SPEC_KEYS = {
    "N": "non-embedding parameters of the backbone; the nearest shape of the ladder is taken",
    "P": "parallel streams",
    "D": "training tokens",
    "seeds": "seeds of initialisation and data order, paired over N and P",
    "corpus": "text: `stdlib` (Python's own source), `hf:NAME`, or files of text, JSONL, JSON, CSV or Parquet",
    "text_column": "column that holds the text, in files with columns",
    "tokenizer": "vocabulary size of a byte-level BPE to train on the text, or a path of a tokenizer",
    "prefix_tokens": "prefix length of each stream in each layer",
    "aggregation": "how streams become one: `dynamic` (the paper's), `mean` or `channel`",
    "lr": "peak learning rates to try; without it the recipe's",
    "plain_tokens": "tokens of D that train the plain model before the streams begin",
    "loops": "passes through the layers, which share their weights",
    "smooth": "shares ε of uniform weights to try; without it the recipe's",
    "decorrelation": "weights of the streams' similarity to try; without it the recipe's",
    "backbone": "folder of a model to freeze, in place of N: only streams are trained, and P = 1 is one prefix",
    "lora_rank": "ranks of LoRA matrices for the linear layers of a frozen backbone; P = 1 then has no prefix",
    "isoflop": "training budgets in FLOPs, in place of D: each N and P gets the D with 6·N·D·P FLOPs",
    "isoflop_sizes": "sizes of each budget, √2 apart, unless N is given",
    "isoflop_ratio": "tokens per parameter around which those sizes lie",
    "points": "single runs in place of a grid: a list of `{N: 50k, P: 2, D: 1M}`, as `scalelab design` writes",
    "num_experts": "experts of each MLP; 0 is a dense model",
    "single_prefix": "`true` gives P = 1 a prefix too, a control that tells what a prefix gains without streams",
    "qkv_bias": "biases of queries, keys and values in dense models; `false` for a baseline of models with experts",
    "experts_per_token": "experts that a token uses",
    "eval": "tasks for the trained models: `next-line`, `cloze`, `brackets`, tasks of lm-eval or its YAML files",
    "ladder": "which set of widths N is matched to; 1 continues sweeps of before December 2026",
    "recipe": "how each model is trained: the keys below",
}
RECIPE_KEYS = {
    "seq_len": "tokens of a sequence",
    "batch_size": "sequences of a step",
    "lr": "peak learning rate at hidden size 64",
    "lr_exponent": "other widths train at lr·(64 / hidden)^lr_exponent",
    "lr_tokens_exponent": "D beyond 1M trains at lr·(1M / D)^lr_tokens_exponent; linear schedule without plain stage",
    "schedule": "`linear` (warm-up, decay to zero), `wsd` (warm-up, stable, decay) or `constant`",
    "warmup_fraction": "share of all steps that warm up, of a linear schedule",
    "warmup_tokens": "tokens that warm up, of the other schedules",
    "decay_fraction": "share of D that decays, of a wsd schedule",
    "weight_decay": "AdamW's, on matrices only",
    "beta1": "AdamW's β₁",
    "beta2": "AdamW's β₂",
    "grad_clip": "largest norm of the gradient",
    "init_gain": "weights start at N(0, (gain / √hidden)²)",
    "smooth": "ε of the aggregator: each stream's weight is at least ε / P",
    "decorrelation": "weight of the streams' mean squared cosine in the training loss, which pushes them apart",
    "prefix_key_std": "standard deviation at which prefix keys start",
    "prefix_value_std": "standard deviation at which prefix values start",
    "prefix_lr_scale": "learning rate of prefixes, over that of the backbone",
    "aggregator_lr_scale": "learning rate of the aggregator, over that of the backbone",
    "val_tokens": "tokens that the validation loss is measured on",
    "dtype": "`fp32`, or `bf16` (autocast over fp32 weights); `auto` chooses by device",
}


def pages() -> dict[str, str]:
    """Return every page by its path below docs/."""
    import generate_api

    made: dict[str, Callable[[], str]] = {
        "cli": cli,
        "laws": laws,
        "spec": spec,
        "records": records,
        "devices": devices,
        "notes": notes,
    }
    return {f"reference/{name}.md": MADE + page() for name, page in made.items()} | {"api.md": generate_api.text()}


def notes() -> str:
    """Return the page on notes and warnings: what each means, and what to do about it."""
    lines = [NOTES_HEAD]
    for topic, entries in ADVICE.items():
        graded = any(entry.severity for entry in entries)
        headings = ["code", *(["severity"] if graded else []), "means", "do"]
        lines += ["", f"## {topic}", "", *([] if graded else [STREAM_WARNINGS, ""])]
        lines += [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
        for entry in entries:
            cells = [", ".join(f"`{code}`" for code in entry.codes), *([entry.severity] if graded else [])]
            do = re.sub(r"`[^`]+`", lambda code: f"`{as_typed(code[0]).strip('`')}`", entry.do)
            lines.append(f"| {' | '.join([*cells, entry.means, do])} |".replace("  |", " |"))
    return "\n".join(lines) + "\n"


def cli() -> str:
    """Return the page on the command line, from the commands themselves."""
    group: Any = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        str(group.help),
        "",
        "Flags that take several values take them after one flag (`--P 1 2 4 8`), with commas (`--P 1,2,4,8`) or",
        "one by one. Counts may have units: `50k`, `7B`. Exit codes: 0 done, 1 failed, 2 misused, 130 interrupted, 143",
        "ended by SIGTERM. `scalelab COMMAND --help` prints what is below.",
    ]
    panels: dict[str, list[str]] = {}
    for name, command in group.commands.items():
        panels.setdefault(command.rich_help_panel, []).append(name)
    for panel, names in panels.items():
        lines += ["", f"## {panel}"]
        for name in names:
            lines += ["", f"### scalelab {name}", "", *_command(name, group.commands[name])]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if type(p).__name__ == "TyperArgument"]
    words = [f"{a.metavar or a.name.upper()}" if a.required else f"[{a.metavar or a.name.upper()}]" for a in arguments]
    kinds = get_type_hints(command.callback)
    lines = ["```text", f"scalelab {name} {' '.join([*words, '[OPTIONS]'])}", "```", "", str(command.help), ""]
    if arguments:
        lines += ["| argument | what it is |", "|---|---|"]
        lines += [f"| `{_cell(word)}` | {_cell(a.help)} |" for word, a in zip(words, arguments, strict=True)]
        lines += [""]
    options = [p for p in command.params if p not in arguments and not p.hidden and "--help" not in p.opts]
    panels: dict[str, list[Any]] = {}
    for option in options:
        panels.setdefault(option.rich_help_panel or "Options", []).append(option)
    for panel, members in panels.items():
        lines += [f"| {panel} | | default |", "|---|---|---|"]
        lines += [f"| {_flags(o, kinds)} | {_cell(o.help)} | {_default(o)} |" for o in members]
        lines += [""]
    return lines[:-1]


def _flags(option: Any, kinds: dict[str, Any]) -> str:
    names = ", ".join(sorted((*option.opts, *option.secondary_opts), key=lambda name: (len(name) > 2, name)))
    of = {bool: "", int: "NUMBER", float: "NUMBER", Path: "PATH"}
    found = [word for kind, word in of.items() if kind in (kinds[option.name], *get_args(kinds[option.name]))]
    kind = option.metavar or (found or ["TEXT"])[0]
    return f"`{names}{' ' + _cell(kind) if kind else ''}`"


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if isinstance(option.show_default, str):
        return _cell(option.show_default)
    if not option.show_default or option.is_flag or option.default is None:
        return ""
    return f"`{option.default}`"


def laws() -> str:
    """Return the page on the laws, with equations."""
    uses = _described(LAWS, LAW_USES, "laws")
    lines = [
        LAWS_HEAD,
        "",
        "| law | of | parameters | use it for |",
        "|---|---|---|---|",
    ]
    for name, law in LAWS.items():
        lines += [f"| [`{name}`](#{name}) | {', '.join(law.variables)} | {len(law.parameters)} | {uses[name]} |"]
    for name, law in LAWS.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"$$\n{law.latex}\n$$",
            "",
            f"Source: {_sentence(law.source)}",
            "",
            *_parameters(law),
        ]
    return "\n".join(lines) + "\n"


def _parameters(law: Law) -> list[str]:
    lines = ["| parameter | unit | needs several | starts | limits |", "|---|---|---|---|---|"]
    for p in law.parameters:
        times = {None: "", "loss": " × smallest loss"}.get(p.relative_to, f" × mean {p.relative_to}")
        ends = [" to ".join(f"{v:g}" for v in pair) + times for pair in (p.start, p.bounds)]
        lines += [f"| `{p.name}` | {p.unit} | {p.needs or ''} | {ends[0]} | {ends[1]} |"]
    return lines


def spec() -> str:
    """Return the page on the keys of a sweep's spec."""
    lines = [
        SPEC_HEAD,
        "",
        "| key | what it is | default | |",
        "|---|---|---|---|",
    ]
    base = SweepSpec()
    described = _described([f.name for f in fields(SweepSpec) if f.name != "name"], SPEC_KEYS, "spec keys")
    for key, text in described.items():
        value = "" if key == "recipe" else _value(getattr(base, key))
        lines += [f"| `{key}` | {_cell(text)} | {value} | {'several' if key in (*AXES, 'isoflop') else ''} |"]
    lines += ["", "## recipe", "", "| key | what it is | default |", "|---|---|---|"]
    recipe = Recipe()
    for key, text in _described([f.name for f in fields(Recipe)], RECIPE_KEYS, "recipe keys").items():
        lines += [f"| `{key}` | {_cell(text)} | {_value(getattr(recipe, key))} |"]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"`[{', '.join(format_count(v) if isinstance(v, float) else str(v) for v in value)}]`" if value else ""
    return f"`{value}`" if value != "" else ""


def records() -> str:
    """Return the page on the run record."""
    lines = [
        RECORDS_HEAD,
        "",
        "| column | type | what it is |",
        "|---|---|---|",
    ]
    for field in RECORD_SCHEMA:
        text = (field.metadata or {}).get(b"description", b"").decode() or field.name.replace("_", " ")
        lines += [f"| `{field.name}` | {_type(field.type)} | {_cell(text)} |"]
    lines += ["", ACCURACIES, "", "## status", "", "| status | what happened, and what to do |", "|---|---|"]
    documented = _status_docs()
    lines += [f"| `{status.value}` | {_cell(documented[status.name])} |" for status in RunStatus]
    return "\n".join(lines) + "\n"


def _type(kind: object) -> str:
    words = {"string": "string", "double": "number", "int64": "integer"}
    inner = getattr(kind, "value_type", None)
    return words[str(kind)] if inner is None else f"list of {words[str(inner)]}s"


def _status_docs() -> dict[str, str]:
    """Return the docstring below each member of `RunStatus`, which Python itself does not keep."""
    import ast
    import inspect

    body = ast.parse(inspect.getsource(RunStatus)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for member, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(member, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[member.targets[0].id] = " ".join(str(text.value.value).split())  # type: ignore[attr-defined]
    return found


def devices() -> str:
    """Return the page on the devices that can be priced."""
    lines = [
        DEVICES_HEAD,
        "",
        "| device | class | fp32 | bf16 | fp8 | int8 | int4 | bandwidth | memory | watts | $ an hour | source |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for device in sl.list_hardware():

        def shown(key: str, value: float | None, unconfirmed: tuple[str, ...] = device.unconfirmed) -> str:
            return "" if value is None else f"{value:.4g}{'?' if key in unconfirmed else ''}"

        peaks = [
            shown(key, _scaled(device.flops_per_s.get(key), 1e12)) for key in ("fp32", "bf16", "fp8", "int8", "int4")
        ]
        cells = [
            f"`{device.name}`",
            device.kind,
            *peaks,
            shown("bandwidth", device.bytes_per_s / 1e9),
            shown("memory", device.memory_bytes / 2**30),
            shown("watts", device.watts),
            shown("price_per_hour", device.price_per_hour),
            _cell(device.source),
        ]
        lines += [f"| {' | '.join(cells)} |"]
    return "\n".join(lines) + "\n"


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _described(names: Iterable[str], described: dict[str, str], what: str) -> dict[str, str]:
    """Return the descriptions in the order of `names`. Raises `KeyError` naming what is missing or unknown."""
    listed = list(names)
    if set(listed) != set(described):
        raise KeyError(f"{what} in docs/generate_reference.py: differ from the code in {set(listed) ^ set(described)}")
    return {name: described[name] for name in listed}


def _cell(text: object) -> str:
    return " ".join(str(text or "").split()).replace("|", "\\|")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def main() -> None:
    """Write the pages."""
    for name, page in pages().items():
        (DOCS / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS))
    main()
