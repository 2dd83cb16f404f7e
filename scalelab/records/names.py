"""Recognise columns of the schema by the names that are usual elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from scalelab.errors import DataError
from scalelab.records.schema import RECORD_SCHEMA

_WORDS = {
    "n_params": """n params num_params num_parameters n_parameters nparams parameters param_count parameter_count
        params_count model_params model_parameters non_embedding_params non_embedding_parameters
        n_params_non_embedding params_non_embedding num_params_non_embedding num_non_embedding_params n_non_embedding
        non_embedding_param_size non_embedding_param_count n_nonemb num_parameters_non_embedding
        dense_parameter_count""",
    "n_params_total": "total_params total_parameters params_total n_total num_params_total n_params_all",
    "n_params_active": "active_params active_parameters params_active n_active num_active_params",
    "n_tokens": """d tokens train_tokens training_tokens n_train_tokens num_tokens num_train_tokens total_tokens
        tokens_seen throughput_total_tokens num_input_tokens_seen token_count n_tokens_seen trained_tokens""",
    "n_tokens_unique": "unique_tokens num_unique_tokens n_unique_tokens tokens_unique unique_data",
    "n_streams": "p streams num_streams parallel_size parallel_streams parscale_n",
    "train_flops": "flops c compute training_flops total_flops total_flos train_compute training_compute",
    "n_experts": "experts num_experts n_routed_experts expert_count expansion",
    "n_loops": "loops num_loops passes num_passes recurrences num_recurrences n_recurrences",
    "peak_lr": "lr learning_rate max_lr base_lr init_lr",
    "batch_size": "bsz bs batch global_batch_size batch_tokens tokens_per_batch train_batch_size",
    "step": "global_step training_step train_step iteration iter trainer_global_step",
    "run": "run_id run_name runid experiment exp_name",
    "seed": "",
    "loss": """val_loss valid_loss validation_loss loss_val loss_validation loss_eval eval_loss eval_validation_loss
        test_loss lm_loss final_loss cross_entropy ce_loss xent nll val_nll validation_nll eval_nll final_val_loss""",
}
# Usual names of the schema's columns; those of `FALLBACK` are used only if no other is there.
ALIASES: dict[str, tuple[str, ...]] = {field: tuple(words.split()) for field, words in _WORDS.items()}
FALLBACK: dict[str, tuple[str, ...]] = {
    "n_params": ("model_size", "size", "size_params"),
    "n_tokens": ("data_size", "dataset_size", "data", "train_size"),
    "loss": ("train_loss", "training_loss", "loss_train"),
}
PERPLEXITY = ("ppl", "perplexity", "val_ppl", "eval_ppl", "valid_ppl", "validation_perplexity", "val_perplexity")
BITS = ("bpb", "bits_per_byte", "val_bpb", "eval_bpb", "bpc", "bits_per_character")
_READABLE = {
    "n_params": "N",
    "n_tokens": "D",
    "n_streams": "P",
    "train_flops": "compute",
    "n_tokens_unique": "unique D",
}


def comparable(name: object) -> str:
    """Return a name in the form for comparison: lower case, with _ between words."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(name).strip())
    return re.sub(r"[^0-9a-z]+", "_", text.lower().replace("#", "num_")).strip("_")


def needed_columns(texts: Iterable[str]) -> Callable[[str], bool]:
    """Return whether a column may be needed: it has a usual name, or `texts` (mappings, a condition) mention it."""
    usual = {*RECORD_SCHEMA.names, *PERPLEXITY, *BITS}
    usual |= {word for table in (ALIASES, FALLBACK) for words in table.values() for word in words}
    comparable_names, mentions = {comparable(name) for name in usual}, list(texts)
    return lambda name: comparable(name) in comparable_names or any(name.strip() in text for text in mentions)


def recognise(columns: Iterable[str], file: str, mapped: Mapping[str, str]) -> dict[str, str]:
    """Return the source in `columns` of each column of the schema with a usual name.

    `mapped` are the columns that the user has mapped.

    Raises:
        DataError: several columns match one of the schema; it lists them.
    """
    taken = set(mapped.values())
    by_name: dict[str, list[str]] = {}
    for column in columns:
        if column not in taken:
            by_name.setdefault(comparable(column), []).append(column)
    found: dict[str, str] = {}
    for field, aliases in ALIASES.items():
        if field in mapped:
            continue
        candidates = [c for name in (field, *aliases) for c in by_name.get(name, [])]
        if not candidates:
            candidates = [c for name in FALLBACK.get(field, ()) for c in by_name.get(name, [])]
        if field == "loss" and not candidates:
            candidates = [c for name in (*BITS, *PERPLEXITY) for c in by_name.get(name, [])]
        if len(candidates) > 1 and len(set(candidates)) == 1:
            raise DataError(f"{file}: more than one column {candidates[0]!r}; rename or remove one")
        if len(candidates) > 1 and field != "seed":
            listed = ", ".join(repr(c) for c in candidates)
            raise DataError(
                f"{file}: {field} could be one of {listed}; choose one with `columns={{{field!r}: COLUMN}}`"
            )
        if candidates:
            found[field] = candidates[0]
    return found


def source_words(field: str, source: str) -> str:
    """Return a recognised column as text for a note: 'model_size' as N."""
    if source.lower() == _READABLE.get(field, field).lower():
        return repr(source)
    return f"{source!r} as {_READABLE.get(field, field)}"
