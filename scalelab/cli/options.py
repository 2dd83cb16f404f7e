"""Shared options of the commands: names, help and groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from scalelab.cost.request import Device
from scalelab.units import format_count

DATA, LAW, MODEL, WORKLOAD, DEVICE, TRAINING, OUTPUT = "Data", "Law", "Model", "Request", "Device", "Training", "Output"
LIMITS, LIFETIME, CLOCK = "Limits", "Lifetime", "Measurement"
Words = list[str] | None
_BY_WEIGHTS = "fp32 with fp32 weights, else bf16"


def option(*flags: str, help: str, panel: str | None = None, **more: Any) -> Any:  # noqa: A002  # Typer's name
    """Return a Typer option in a group."""
    return typer.Option(*flags, help=help, rich_help_panel=panel, **more)


def list_option(
    flag: str, text: str, default: Sequence[float] = (), metavar: str = "VALUE…", panel: str | None = None
) -> Any:
    """Return an option that takes several values after one flag; the command gets them as text, or None."""
    shown = " ".join(format_count(value) for value in default)
    return typer.Option(flag, help=text, metavar=metavar, show_default=shown or False, rich_help_panel=panel)


# Data
Source = Annotated[str, typer.Argument(help="Folder of records, table, or 'paper'.", show_default=False)]
Columns = Annotated[
    Words,
    list_option("--map", "Columns or expressions to use: n_params=size loss='ln(ppl)'.", (), "NAME=COLUMN…", DATA),
]
Where = Annotated[str | None, option(help="Rows to use, e.g. 'D > 100M and P < 8'.", panel=DATA, metavar="CONDITION")]
Count = Annotated[
    str, option(help="N: paper (non-embedding, with streams), backbone or total.", panel=DATA, metavar="NAME")
]
Points = Annotated[str, option(help="Rows of runs that have several: final, all or auto.", panel=DATA, metavar="NAME")]
Best = Annotated[bool, option("--best", help="Use only the lowest loss for each N, P and D.", panel=DATA)]
Corpus = Annotated[
    str, option(help="Text: stdlib, hf:NAME, or a file or folder of text, JSONL or Parquet.", panel=DATA)
]
TextColumn = Annotated[str, option(help="Column with the text, in JSONL and Parquet.", panel=DATA)]
SeqLen = Annotated[int | None, option(min=2, help="Sequence length in tokens.", panel=DATA, show_default="up to 512")]
ValTokens = Annotated[int, option(min=1, help="Validation tokens.", panel=DATA)]

# Law
AnswerLaw = Annotated[
    str | None,
    option(
        help="One law of the fit, such as additive, instead of their average; file.py:NAME for a fit of your own law.",
        panel=LAW,
        metavar="NAME",
        show_default="average over the laws of the fit",
    ),
]

Starts = Annotated[int, option(min=1, help="Starting points of the optimiser.", panel=LAW)]
Draws = Annotated[int, option(min=100, help="Bootstrap draws.", panel=LAW)]
FitSeed = Annotated[int, option(min=0, help="Seed of starting points and bootstrap.", panel=LAW)]

# Model and request
Preset = Annotated[
    str,
    option(
        help="Defaults: parscale (llm-analysis, 64 tokens in, 64 out) or serving (roofline, 512 in, 128 out).",
        panel=WORKLOAD,
        metavar="NAME",
    ),
]
Layers = Annotated[int, option(help="Decoder layers.", panel=MODEL)]
Heads = Annotated[int, option(help="Attention heads.", panel=MODEL)]
KvHeads = Annotated[int, option(help="Key/value heads.", panel=MODEL)]
Vocab = Annotated[int, option(help="Vocabulary size.", panel=MODEL)]
TokensIn = Annotated[int | None, option(help="Prompt tokens.", panel=WORKLOAD, show_default="by preset")]
TokensOut = Annotated[int | None, option(help="Generated tokens.", panel=WORKLOAD, show_default="by preset")]
Batches = Annotated[
    Words,
    list_option(
        "--batch",
        "Concurrent requests, e.g. 1 8; or max: the largest batch within memory, --ttft and --tpot.",
        (1,),
        panel=WORKLOAD,
    ),
]

# Device
Engine = Annotated[
    str | None,
    option(
        help="Cost model: llm-analysis (the paper's) or roofline.",
        metavar="NAME",
        panel=DEVICE,
        show_default="by preset",
    ),
]
Gpu = Annotated[
    str | None,
    option(
        help="Device from scalelab cost --list-hardware.",
        panel=DEVICE,
        metavar="NAME",
        show_default=f"{Device.gpu}, or the device in --hardware",
    ),
]
HardwareFile = Annotated[
    Path | None, option("--hardware", help="YAML file with devices of your own.", panel=DEVICE, show_default=False)
]
Weights = Annotated[
    str,
    option(
        help="Weight format: bf16, fp8, int8, int4, q4_0, q4_k_m, q8_0, awq, gptq, nvfp4, …; or bits, such as 4.5.",
        metavar="NAME",
        panel=DEVICE,
    ),
]
Kv = Annotated[
    str | None,
    option(help="Format of KV cache and prefixes.", metavar="NAME", panel=DEVICE, show_default=_BY_WEIGHTS),
]
Compute = Annotated[
    str | None,
    option(
        help="Precision of matrix products: fp32, tf32, bf16, fp8, int8, int4 or fp4.",
        metavar="NAME",
        panel=DEVICE,
        show_default=_BY_WEIGHTS,
    ),
]
FlopsEfficiency = Annotated[
    float | None,
    option(
        help="Achieved fraction of peak FLOP/s.",
        panel=DEVICE,
        show_default="by class; llm-analysis 0.7, measured devices 1",
    ),
]
MemoryEfficiency = Annotated[
    float | None,
    option(
        help="Achieved fraction of peak memory bandwidth.",
        panel=DEVICE,
        show_default="by class; llm-analysis 0.9, measured devices 1",
    ),
]
Runtime = Annotated[
    str | None,
    option(
        help="Inference engine: graphs (such as TensorRT-LLM), vllm, llama.cpp or eager.",
        metavar="NAME",
        panel=DEVICE,
        show_default="by class",
    ),
]
LaunchUs = Annotated[
    float | None,
    option(help="Overhead per kernel launch, µs.", panel=DEVICE, show_default="by class and runtime"),
]
Reserve = Annotated[
    str | None,
    option(help="Memory used by driver and engine, e.g. 2GiB.", panel=DEVICE, show_default="by class"),
]
TensorParallel = Annotated[int, option(help="Devices in a tensor-parallel group on one node.", panel=DEVICE)]
PricePerHour = Annotated[
    float | None,
    option(help="US dollars per device hour.", panel=DEVICE, show_default="from the hardware table"),
]
Watts = Annotated[
    float | None,
    option(help="Power draw of one device.", panel=DEVICE, show_default="its limit in the hardware table"),
]
DeviceChoice = Annotated[str, option("--device", help="Device: auto, cpu or cuda.", panel=DEVICE, metavar="NAME")]
DtypeName = Annotated[
    str,
    option("--dtype", help="Precision: auto (bf16 on CUDA, else fp32), fp32 or bf16.", panel=DEVICE, metavar="NAME"),
]

# Output
Out = Annotated[
    Path | None,
    option("-o", "--out", help="Write results to a .json or .csv file.", metavar="FILE", panel=OUTPUT),
]
NewFolder = Annotated[Path, option("-o", "--out", help="New folder for the model.", metavar="FOLDER", panel=OUTPUT)]
Figure = Annotated[
    Path | None,
    option("--figure", help="Save a figure as .png, .pdf, .svg or another format.", metavar="FILE", panel=OUTPUT),
]
FigureSize = Annotated[
    str | None,
    option(
        "--figure-size",
        help="Size of figures: screen, or one-column or two-columns of a paper.",
        metavar="NAME",
        show_default="screen",
        panel=OUTPUT,
    ),
]
AsJson = Annotated[bool, option("--json", help="Print unrounded JSON.", panel=OUTPUT)]
Quiet = Annotated[bool, option("-q", "--quiet", help="Print no notes, warnings or progress.", panel=OUTPUT)]
