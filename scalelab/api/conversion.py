"""Give a pretrained model streams."""

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
    """One number of streams of a converted model, before any training. `draw` is the choice of text that was kept."""

    P: int
    prefix_tokens: int
    loss: float
    over_base: float  # relative
    draw: int | None
    draws: int
    cosine: float | None
    correlation: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Conversion(Shown):
    """A model with new banks of streams, and what they do to its loss."""

    source: Path
    out: Path
    corpus: str
    base_loss: float  # of the model without any prefix
    n_tokens: int  # that losses were measured on
    banks: tuple[Bank, ...]
    start: str
    notes: tuple[str, ...]  # on lengths that the model was not made for

    _report: ClassVar[str] = "scalelab.report.streams:conversion_report"
    _json: ClassVar[str] = "scalelab.report.streams:conversion_json"

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each number of streams."""
        import pandas as pd

        return pd.DataFrame(self.to_dict()["banks"]).set_index("P")

    def __repr__(self) -> str:
        said = ", ".join(f"P {bank.P}: {bank.loss:.4f} ({bank.over_base:+.2%})" for bank in self.banks)
        return f"<Conversion {self.out}: base loss {self.base_loss:.4f}; {said}>"


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
    """Give a pretrained model streams, measure what that does to its loss, and save it.

    Args:
        model: Folder with config.json, safetensors and tokenizer.json; no code from it is run.
        out: New folder for the converted model.
        P: Streams, a bank for each. P = 1 adds a prefix without streams: prefix tuning.
        prefix_tokens: Prefix length of each stream; by default 48, or an eighth of what the model was made for.
        start: How prefixes begin: "text" (keys and values of real text), "moments" (of those) or "normal".
        aggregation: How streams are mixed: "dynamic" (the paper's, the default), "mean" or "channel".
        corpus: Text for prefixes and validation: "stdlib", "hf:NAME" or a path.
        text_column: Where JSONL and Parquet hold the text.
        seq_len: Tokens of a validation sequence; up to 512 by default.
        val_tokens: Tokens to measure the losses on.
        draws: Choices of text to try, 8 by default; the best is kept.
        seed: Seed of the choice of text.
        dtype: Precision to measure in.
        device: Where to measure.

    Raises:
        UsageError: An argument is wrong, or `out` is not empty.
        DataError: The model or its tokenizer cannot be used.
    """
    source, out = Path(model), Path(out)
    streams = whole_numbers(P, "P")
    if aggregation not in (None, *AGGREGATIONS):
        reason = f"choose one of {', '.join(AGGREGATIONS)}"
        raise UsageError(reason, argument="aggregation", value=aggregation)
    if start not in STARTS:
        raise UsageError("choose text, moments or normal", argument="start", value=start)
    if start == "normal" and draws is not None:
        raise UsageError("a normal start uses no text; leave it out, or choose `start='text'`", argument="draws")
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

    quiet_libraries()
    chosen = choose_device(device)
    opened = stage.open_model(source, device=chosen)
    prefix_tokens = prefix_tokens or default_prefix_tokens(opened)
    banks = dict.fromkeys(streams, prefix_tokens)
    if taken := sorted(set(banks) & set(opened.banks)):
        raise UsageError(f"{source} has that bank already", argument="P", value=taken[0])
    if opened.banks and aggregation not in (None, opened.config.parscale_aggregation):
        reason = f"the banks of {source} have {opened.config.parscale_aggregation}"
        raise UsageError(reason, argument="aggregation", value=aggregation)
    data = stage.read_text(opened, source, corpus, text_column)
    seq_len = seq_len or stage.default_seq_len(opened)
    recipe = stage.stage_recipe("streams", None, seq_len, 1, val_tokens, resolve_dtype(dtype, chosen))
    opened.set_streams(1)
    with opened.plain():
        base = stage.measure(opened, data, recipe, chosen)
    tried = add_banks(opened, banks, data, recipe, start, seed, draws or DRAWS, aggregation=aggregation or "dynamic")
    made = []
    for bank, length in banks.items():
        opened.set_streams(bank)
        made.append(_bank(bank, length, stage.measure(opened, data, recipe, chosen), base.loss, tried[bank]))
    save_model(opened.to(saved_dtype(source)), out, source)
    lengths = [seq_len, prefix_tokens]
    if start == "text" and max(bank.over_base for bank in made) > 0.01:
        lengths.append(prefix_tokens + seq_len)  # it stands before the sequence: so far back the last token looks
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
