"""Sweeps on a frozen backbone: their defaults, the keys that the backbone fixes, and its shape."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.architecture import Architecture
from scalelab.cost.config_file import read_config
from scalelab.cost.families import served_from_config
from scalelab.cost.shape import as_architecture, as_served, inexpressible
from scalelab.errors import DataError, UsageError
from scalelab.model_config import CONFIG_FILE, read_config_json
from scalelab.train.stage_recipe import BATCH_SIZE, VAL_TOKENS, prefix_length, sequence_length, stage_recipe

if TYPE_CHECKING:
    from scalelab.sweep.spec import SweepSpec

DEFAULT_D = 100e3  # that of `train_streams`

# Keys that a frozen backbone fixes, and the reason.
_FIXED = {
    "N": "has its own N",
    "tokenizer": "has its own tokenizer",
    "points": "has its own N",
    "isoflop": "has its own N",
    "plain_tokens": "is trained already",
    "loops": "has no loops",
    "num_experts": "has its own layers",
    "qkv_bias": "has its own layers",
    "single_prefix": "always has a prefix at P = 1",
}


def frozen_defaults(folder: str, dtype: str) -> dict[str, Any]:
    """Return fields of a `SweepSpec` for the backbone in `folder`; other keys of the spec override them.

    Sequences and prefixes are shorter if the model was made for short ones. Without such a folder, which is an error
    where the sweep starts, they have the usual lengths.
    """
    try:
        most = read_config_json(Path(folder) / CONFIG_FILE).get("max_position_embeddings")
    except OSError:
        most = None
    most = most if isinstance(most, int) and most > 1 else None
    recipe = stage_recipe("streams", None, sequence_length(most), BATCH_SIZE, VAL_TOKENS, dtype)
    given = {"backbone": folder, "N": (), "D": (DEFAULT_D,), "lr": (), "recipe": recipe}
    return given | {"prefix_tokens": (prefix_length(most),)}


def check_frozen(spec: SweepSpec) -> None:
    """Raise `UsageError` for keys that do not go with the backbone, or that need one."""
    if not spec.backbone:
        if spec.lora_rank != (0,):
            raise UsageError("lora_rank needs a backbone, the folder of a frozen model; leave it out")
        return
    usual = {field.name: field.default for field in fields(spec)} | {"N": ()}
    for key, reason in _FIXED.items():
        if getattr(spec, key) != usual[key]:
            raise UsageError(f"{key} cannot be combined with a backbone, which {reason}; leave it out")


def backbone_shape(folder: Path) -> Architecture:
    """Return the shape of the model in `folder`, from its config.json.

    Raises:
        UsageError: there is no such folder, or `Architecture` cannot express its layers or streams.
        DataError: a file is missing, config.json cannot be read, or its model type is unknown.
    """
    if not folder.is_dir():
        reason = "is a file; give the folder that contains it" if folder.is_file() else "no such folder; give a model's"
        raise UsageError(reason, argument="backbone", value=str(folder))
    content, where = read_config(folder)
    served = served_from_config(content, where)
    if not any(folder.glob("*.safetensors")):
        raise DataError(f"{folder}: no safetensors next to config.json; give a folder with weights")
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder}: no tokenizer.json next to the model; put its tokenizer there")
    if served.P > 1 or served.banks:
        raise _unsupported(folder, "has streams already; give the model without them")
    if (reason := inexpressible(served)) is not None:
        raise _unsupported(folder, f"sweeps do not support {reason}; use convert and train")
    shape = as_architecture(served)
    for known in (shape, replace(shape, qkv_bias=False)) if not shape.num_experts else (shape,):
        if as_served(known).total_params == served.total_params:
            return known
    raise _unsupported(folder, "sweeps do not support the biases or norms of its layers; use convert and train")


def _unsupported(folder: Path, reason: str) -> UsageError:
    return UsageError(reason, argument="backbone", value=str(folder))
