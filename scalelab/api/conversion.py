"""Conversion of pretrained models to models with streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scalelab.aggregation import AGGREGATIONS
from scalelab.api.loading import (
    DeviceName,
    Dtype,
    check_corpus,
    check_device,
    check_dtype,
    check_model,
    choose_device,
    need_torch,
    new_folder,
    quiet_libraries,
)
from scalelab.errors import UsageError
from scalelab.shown import Shown
from scalelab.units import whole_numbers

if TYPE_CHECKING:
    import pandas as pd

Start = Literal["text", "moments", "normal"]
Aggregation = Literal["dynamic", "mean", "channel"]
STARTS: tuple[Start, ...] = ("text", "moments", "normal")

__all__ = ["Conversion", "convert"]


@dataclass(frozen=True)
class Bank:
    """One bank of streams of a converted model, before any training."""

    P: int
    prefix_tokens: int
    loss: float  # nats per token
    over_base: float  # loss / base_loss - 1
    draw: int | None  # the text sample that was kept, from 1
    draws: int  # text samples tried
    cosine: float | None  # of the final states of two streams, on average
    correlation: float | None  # of the losses of two streams over tokens
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Conversion(Shown):
    """A model with new banks of streams, and its loss with each of them."""

    source: Path
    out: Path
    corpus: str
    base_loss: float  # of the model without prefixes, nats per token
    n_tokens: int  # validation tokens
    banks: tuple[Bank, ...]
    start: str
    notes: tuple[str, ...]  # on sequences longer than the model was trained for

    _report: ClassVar[str] = "scalelab.reports.streams:conversion_report"
    _json: ClassVar[str] = "scalelab.reports.streams:conversion_json"

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each number of streams."""
        import pandas as pd

        return pd.DataFrame(self.to_dict()["banks"]).set_index("P")

    def __repr__(self) -> str:
        banks = ", ".join(f"P {bank.P}: {bank.loss:.4f} ({bank.over_base:+.2%})" for bank in self.banks)
        return f"<Conversion {self.out}: base loss {self.base_loss:.4f}; {banks}>"


def convert(
    model: str | Path,
    out: str | Path,
    P: int | Sequence[int] = (2, 4, 8),
    *,
    prefix_tokens: int | None = None,
    start: Start = "text",
    aggregation: Aggregation | None = None,
    corpus: str = "stdlib",
    text_column: str = "text",
    seq_len: int | None = None,
    val_tokens: int = 8192,
    draws: int | None = None,
    seed: int = 0,
    dtype: Dtype = "auto",
    device: DeviceName = "auto",
) -> Conversion:
    """Add streams to a pretrained model, measure its loss with them, and save it.

    Args:
        model: Folder with config.json, safetensors and tokenizer.json. No code in it is run.
        out: New folder for the converted model.
        P: Numbers of streams; each gets its own bank. P = 1 adds one prefix, as in prefix tuning.
        prefix_tokens: Prefix length of each stream; by default 48, or an eighth of the model's context if that is less.
        start: Initial prefixes: "text" (keys and values of real text), "moments" (random, with the mean and variance
            of those) or "normal" (random).
        aggregation: Aggregator: "dynamic" (the paper's, the default), "mean" or "channel".
        corpus: Text for prefixes and validation: "stdlib", "hf:NAME" or a path.
        text_column: Column with the text, in JSONL and Parquet.
        seq_len: Length of validation sequences in tokens; by default up to 512.
        val_tokens: Validation tokens.
        draws: Text samples to try for the prefixes, 8 by default; the one with the lowest loss is kept.
        seed: Seed of the text samples.
        dtype: Precision of the validation: "fp32", "bf16" or "auto" (bf16 on CUDA, else fp32).
        device: Device for the validation: "auto", "cpu" or "cuda".

    Returns:
        The loss of the base model and of each bank, in nats per token.

    Raises:
        UsageError: An argument is wrong, or `out` is not empty.
        DataError: The model or its tokenizer cannot be used.
        MissingPackageError: torch or transformers is not installed.
    """
    source, out = Path(model), Path(out)
    streams = whole_numbers(P, "P")
    if aggregation not in (None, *AGGREGATIONS):
        reason = f"choose one of {', '.join(AGGREGATIONS)}"
        raise UsageError(reason, argument="aggregation", value=aggregation)
    if start not in STARTS:
        raise UsageError("choose text, moments or normal", argument="start", value=start)
    if start == "normal" and draws is not None:
        raise UsageError("`start='normal'` uses no text; leave it out, or choose `start='text'`", argument="draws")
    check_dtype(dtype)
    check_device(device)
    check_model(source)
    check_corpus(corpus)
    new_folder(out)
    need_torch("convert")

    from scalelab.model.checkpoint import save_model, saved_dtype
    from scalelab.train import stage
    from scalelab.train.convert import DRAWS, default_prefix_tokens
    from scalelab.train.convert import convert as add_banks
    from scalelab.train.devices import resolve_dtype
    from scalelab.train.stage_recipe import stage_recipe

    quiet_libraries()
    chosen = choose_device(device)
    opened = stage.open_model(source, device=chosen)
    prefix_tokens = prefix_tokens or default_prefix_tokens(opened)
    banks = dict.fromkeys(streams, prefix_tokens)
    if taken := sorted(set(banks) & set(opened.banks)):
        raise UsageError(f"{source} already has this bank; choose another", argument="P", value=taken[0])
    if opened.banks and aggregation not in (None, opened.config.parscale_aggregation):
        reason = f"the banks of {source} use {opened.config.parscale_aggregation}; leave it out"
        raise UsageError(reason, argument="aggregation", value=aggregation)
    data = stage.read_text(opened, source, corpus, text_column)
    seq_len = seq_len or stage.default_seq_len(opened)
    recipe = stage_recipe("streams", None, seq_len, 1, val_tokens, resolve_dtype(dtype, chosen))
    opened.set_streams(1)
    with opened.plain():
        base = stage.validate(opened, data, recipe, chosen)
    tried = add_banks(opened, banks, data, recipe, start, seed, draws or DRAWS, aggregation=aggregation or "dynamic")
    made: list[Bank] = []
    for bank, length in banks.items():
        opened.set_streams(bank)
        made.append(_bank(bank, length, stage.validate(opened, data, recipe, chosen), base.loss, tried[bank]))
    save_model(opened.to(saved_dtype(source)), out, source)
    lengths = [seq_len, prefix_tokens]
    if start == "text" and max(bank.over_base for bank in made) > 0.01:
        lengths.append(prefix_tokens + seq_len)  # the distance from the last token back to the first of the prefix
    found = (stage.length_warning(opened, length) for length in lengths)
    notes = tuple(note.removeprefix("warning: ") for note in found if note)
    return Conversion(source, out, corpus, base.loss, base.n_tokens, tuple(made), start, notes)


def _bank(P: int, length: int, seen: Any, base: float, tried: list[float]) -> Bank:
    streams = seen.streams
    return Bank(
        P=P,
        prefix_tokens=length,
        loss=seen.loss,
        over_base=seen.loss / base - 1,
        draw=tried.index(min(tried)) + 1 if tried else None,
        draws=len(tried),
        cosine=streams.cosine if streams else None,
        correlation=streams.correlation if streams else None,
        warnings=tuple(streams.warnings) if streams else (),
    )
