"""Sweeps on a frozen backbone: their defaults, and which keys of a spec they leave no choice in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.architecture import PREFIX_TOKENS, Architecture
from scalelab.cost.config_file import read_config
from scalelab.cost.families import served_from_config
from scalelab.cost.shape import as_architecture, as_served
from scalelab.errors import NotPricedError, UsageError
from scalelab.model_config import CONFIG_FILE, read_config_json
from scalelab.train.recipe import Recipe

if TYPE_CHECKING:
    from scalelab.sweep.spec import SweepSpec

DEFAULT_D = 100e3
_SEQ_LEN, _BATCH, _VAL_TOKENS = 512, 4, 32_768  # those of `scalelab train`
_LR = 3e-2  # streams can take large steps (docs/LOG.md)

# Keys that a frozen backbone decides, with the values that leave them out and the reason.
_DECIDED: dict[str, tuple[Any, str]] = {
    "N": ((), "has its own N"),
    "tokenizer": (512, "has its own tokenizer"),
    "points": ((), "has its own N"),
    "isoflop": ((), "has its own N"),
    "plain_tokens": ((0,), "is trained already"),
    "loops": ((1,), "has no loops"),
    "num_experts": (0, "has its own layers"),
    "qkv_bias": (True, "has its own layers"),
    "single_prefix": (False, "always has a prefix at P = 1"),
}


def frozen_recipe() -> Recipe:
    """Return the recipe of `scalelab train` for streams on a frozen backbone; its rate applies to every width and D."""
    return Recipe(
        seq_len=_SEQ_LEN,
        batch_size=_BATCH,
        lr=_LR,
        lr_exponent=0.0,
        lr_tokens_exponent=0.0,
        prefix_lr_scale=1.0,
        aggregator_lr_scale=0.1,
        weight_decay=0.0,
        val_tokens=_VAL_TOKENS,
    )


def frozen_defaults(folder: str, dtype: str) -> dict[str, Any]:
    """Return fields of a `SweepSpec` for the backbone in `folder`, which its other keys override.

    Sequences and prefixes are shorter if the model was made for short ones.
    """
    recipe, prefix = replace(frozen_recipe(), dtype=dtype), PREFIX_TOKENS
    try:
        most = read_config_json(Path(folder) / CONFIG_FILE).get("max_position_embeddings")
    except FileNotFoundError:  # an error where the sweep starts
        most = None
    if isinstance(most, int) and most > 1:
        recipe, prefix = replace(recipe, seq_len=min(_SEQ_LEN, most)), max(1, min(PREFIX_TOKENS, most // 8))
    return {"backbone": folder, "N": (), "D": (DEFAULT_D,), "prefix_tokens": (prefix,), "lr": (), "recipe": recipe}


def check_frozen(spec: SweepSpec) -> None:
    """Raise `UsageError` for keys that a sweep on a frozen backbone, or one without, cannot use."""
    if not spec.backbone:
        if spec.lora_rank != (0,):
            raise UsageError("lora_rank needs a backbone, the folder of a frozen model; leave it out")
        return
    for key, (without, reason) in _DECIDED.items():
        if getattr(spec, key) != without:
            raise UsageError(f"{key} cannot be combined with a backbone, which {reason}; leave it out")


def backbone_shape(folder: Path) -> Architecture:
    """Return the shape of the model in `folder`, from its config.json.

    Raises:
        UsageError: there is no such folder, or `Architecture` cannot express its layers or streams.
        DataError: config.json cannot be read, or its model type is unknown.
    """
    if not folder.is_dir():
        raise UsageError(
            "no such folder; give one with config.json and safetensors", argument="backbone", value=str(folder)
        )
    content, where = read_config(folder)
    served = served_from_config(content, where)
    if served.P > 1 or served.banks:
        raise UsageError(f"{folder}: has streams already; give the model without them", argument="backbone")
    try:
        shape = as_architecture(served)
    except NotPricedError as error:
        reason = error.because.split("llm-analysis cannot price ")[-1]
        raise UsageError(f"{folder}: sweeps do not support {reason}", argument="backbone") from None
    for known in (shape, replace(shape, qkv_bias=False)) if not shape.num_experts else (shape,):
        if as_served(known).total_params == served.total_params:
            return known
    raise UsageError(f"{folder}: sweeps do not support the biases or norms of its layers", argument="backbone")
