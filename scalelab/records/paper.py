"""The 48 losses published with ParScale (arXiv 2505.10475) as records."""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

from scalelab.records.schema import conform

NAME = "paper"

_COLUMNS = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "num_kv_heads": "num_kv_heads",
    "prefix_tokens": "prefix_tokens",
    "P": "n_streams",
    "n_params_non_embedding": "n_params",
    "train_tokens": "n_tokens",
    "loss": "loss",
    "corpus": "corpus",
}


def paper_records() -> pd.DataFrame:
    """Return 48 records, 24 per corpus: six sizes by P = 1, 2, 4, 8, each trained on 42 billion tokens."""
    with (files("scalelab.records") / "data" / "paper_losses.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file)
    records = table[list(_COLUMNS)].rename(columns=_COLUMNS)
    key = "paper-" + table["corpus"] + "-" + table["hidden_size"].astype(str) + "-P" + table["P"].astype(str)
    records["key"] = key
    records["setup"] = "paper"
    backbone = records.groupby(["corpus", "hidden_size"])["n_params"].transform("min")
    records["n_params_backbone"] = backbone
    return conform(records)
