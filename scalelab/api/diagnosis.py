"""Diagnosis of the streams of a model: aggregator weights and similarity of streams on a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from scalelab.api.loading import (
    DeviceName,
    Dtype,
    check_corpus,
    check_device,
    check_dtype,
    check_model,
    choose_device,
    load_tokenizer,
    need_torch,
    quiet_libraries,
)
from scalelab.errors import UsageError
from scalelab.shown import Shown

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from scalelab.train.streams import StreamReport

_MOST_TOKENS = 64  # in the figure of the weights

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True)
class Diagnosis(Shown):
    """Aggregator weights of P streams on a text, similarity of the streams, and warnings."""

    name: str
    corpus: str
    P: int
    loss: float  # nats per token
    loss_stderr: float
    n_tokens: int
    streams: StreamReport
    words: tuple[str, ...]  # the first T tokens of the text
    weights: np.ndarray  # aggregator weights at each of them, [T, P]

    _report: ClassVar[str] = "scalelab.reports.streams:diagnosis_report"
    _figure: ClassVar[str] = "scalelab.plot.streams:plot_diagnosis"
    _json: ClassVar[str] = "scalelab.reports.streams:diagnosis_json"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Names of the warnings; the report explains each."""
        return tuple(self.streams.warnings)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each stream: its mean weight and its loss alone, in nats per token."""
        import pandas as pd

        columns = {"mean_weight": self.streams.mixture_weights, "loss_alone": self.streams.losses}
        return pd.DataFrame(columns, index=pd.RangeIndex(1, self.P + 1, name="stream"))

    def __repr__(self) -> str:
        names = ", ".join(self.warnings) or "no warnings"
        return f"<Diagnosis {self.name}, P = {self.P}: loss {self.loss:.4f}, ρ {self.streams.correlation:.3f}; {names}>"


def diagnose(
    model: str | Path,
    P: int | None = None,
    *,
    corpus: str = "stdlib",
    text_column: str = "text",
    seq_len: int | None = None,
    val_tokens: int = 32768,
    dtype: Dtype = "auto",
    device: DeviceName = "auto",
) -> Diagnosis:
    """Measure how different the streams of a model are, and whether the aggregator uses them.

    Args:
        model: Folder of a model with streams.
        P: Number of streams; by default the one that the model was saved with.
        corpus: Text: "stdlib", "hf:NAME" or a path.
        text_column: Column with the text, in JSONL and Parquet.
        seq_len: Sequence length in tokens; by default up to 512.
        val_tokens: Tokens to evaluate.
        dtype: Precision: "fp32", "bf16" or "auto" (bf16 on CUDA, else fp32).
        device: Device: "auto", "cpu" or "cuda".

    Returns:
        Weights and loss of each stream, similarity of the streams, and warnings.

    Raises:
        UsageError: The model has only one stream, or an argument is wrong.
        DataError: The model or its tokenizer cannot be used.
        MissingPackageError: torch or transformers is not installed.
    """
    source = Path(model)
    check_dtype(dtype)
    check_device(device)
    check_model(source)
    check_corpus(corpus)
    need_torch("diagnose")

    import torch

    from scalelab.train import stage
    from scalelab.train.devices import resolve_dtype
    from scalelab.train.stage_recipe import stage_recipe
    from scalelab.train.streams import weights_over_tokens

    quiet_libraries()
    chosen = choose_device(device)
    opened: Any = stage.open_model(source, P, chosen)
    if opened.P == 1:
        have = ", ".join(map(str, sorted(p for p in opened.banks if p > 1))) or "none"
        raise UsageError(f"{source}: one stream cannot be compared; choose `P` (banks with several: {have})")
    data = stage.read_text(opened, source, corpus, text_column)
    seq_len = seq_len or stage.default_seq_len(opened)
    recipe = stage_recipe("streams", None, seq_len, 1, val_tokens, resolve_dtype(dtype, chosen))
    seen = stage.validate(opened, data, recipe, chosen)
    assert seen.streams is not None
    first = data.validation()[: min(seq_len, _MOST_TOKENS)].astype("int64")
    ids: Any = torch.from_numpy(first)  # type: ignore[reportUnknownMemberType]
    words = load_tokenizer(source).convert_ids_to_tokens(ids.tolist())
    return Diagnosis(
        name=source.resolve().name,
        corpus=corpus,
        P=opened.P,
        loss=seen.loss,
        loss_stderr=seen.loss_stderr,
        n_tokens=seen.n_tokens,
        streams=seen.streams,
        words=tuple(words),
        weights=weights_over_tokens(opened, ids),
    )
