"""Look at what the streams of a model do on a text."""

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

_MOST_TOKENS = 64  # in the picture of the weights

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True)
class Diagnosis(Shown):
    """Report on the P streams of a model over a text: how they are mixed, how alike they are, and warnings."""

    name: str
    corpus: str
    P: int
    loss: float
    loss_stderr: float
    n_tokens: int
    streams: StreamReport
    words: tuple[str, ...]  # of the text's beginning
    weights: np.ndarray  # of the mixture at each of them, [T, P]

    _report: ClassVar[str] = "scalelab.report.streams:diagnosis_report"
    _figure: ClassVar[str] = "scalelab.plot.streams:plot_diagnosis"
    _json: ClassVar[str] = "scalelab.report.streams:diagnosis_json"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Names of what is wrong; the report explains each."""
        return tuple(self.streams.warnings)

    def to_frame(self) -> pd.DataFrame:
        """Return mean weight and loss of each stream alone."""
        import pandas as pd

        columns = {"mean_weight": self.streams.mixture_weights, "loss_alone": self.streams.losses}
        return pd.DataFrame(columns, index=pd.RangeIndex(1, self.P + 1, name="stream"))

    def __repr__(self) -> str:
        said = ", ".join(self.warnings) or "no warning"
        return f"<Diagnosis {self.name}, P = {self.P}: loss {self.loss:.4f}, ρ {self.streams.correlation:.3f}; {said}>"


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
    """Report how different the streams of a model are, and whether the mixture uses them.

    Args:
        model: Folder of a model with streams.
        P: Streams; by default those the model was saved with.
        corpus: Text: "stdlib", "hf:NAME" or a path.
        text_column: Where JSONL and Parquet hold the text.
        seq_len: Tokens of a sequence; up to 512 by default.
        val_tokens: Tokens to look at.
        dtype: Precision to compute in.
        device: Where to compute.

    Raises:
        UsageError: The model has one stream only, or an argument is wrong.
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
    from scalelab.train.streams import weights_over_tokens

    quiet_libraries()
    chosen = choose_device(device)
    opened: Any = stage.open_model(source, P, chosen)
    if opened.P == 1:
        have = ", ".join(map(str, sorted(p for p in opened.banks if p > 1))) or "none"
        raise UsageError(f"{source}: one stream has nothing to compare; choose `P` (banks: {have})")
    data = stage.read_text(opened, source, corpus, text_column)
    seq_len = seq_len or stage.default_seq_len(opened)
    recipe = stage.stage_recipe("streams", None, seq_len, 1, val_tokens, resolve_dtype(dtype, chosen))
    seen = stage.measure(opened, data, recipe, chosen)
    assert seen.streams is not None
    ids = torch.from_numpy(data.validation()[: min(seq_len, _MOST_TOKENS)].astype("int64"))
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
