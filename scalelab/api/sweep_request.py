"""Sweep specs and execution options from the arguments of `run_sweep` and `plan_sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from scalelab.api.loading import check_corpus, check_device, need_torch
from scalelab.errors import MissingPackageError, UsageError
from scalelab.sweep.executors import check_executor
from scalelab.units import whole_numbers

if TYPE_CHECKING:
    from scalelab.sweep.spec import SweepSpec


def spec_of(
    spec: SweepSpec | str | Path | Mapping[str, Any] | None,
    grid: Mapping[str, Any],
    recipe: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> SweepSpec:
    """Return the spec with the given arguments over it.

    Only what needs neither torch nor the corpus is checked.

    Args:
        spec: A spec, its keys and values, or a YAML file; by default an empty spec.
        grid: Grid arguments of `run_sweep`; None is not given.
        recipe: Recipe arguments of `run_sweep`; None is not given.
        settings: Any other keys of a spec.

    Raises:
        UsageError: A value is wrong.
        MissingPackageError: torch or transformers is not installed.
    """
    need_torch("a sweep")
    from scalelab.sweep.spec import SweepSpec, load_spec, parse

    given, more = _given(grid), dict(settings or {})
    # Before other keys, since it changes their defaults.
    backbone = _one_backbone(given.pop("backbone", None), more.pop("backbone", None))
    own = {"backbone": backbone} if backbone else {}
    if spec is None:
        chosen = replace(SweepSpec(), **parse(own), **({"name": Path(backbone).resolve().name} if backbone else {}))
    elif isinstance(spec, SweepSpec):
        chosen = spec if not backbone else replace(spec, backbone=backbone) if spec.backbone else _over(spec, own)
    elif isinstance(spec, Mapping):
        chosen = replace(SweepSpec(), **parse({**spec, **own}))
    else:
        chosen = load_spec(spec, backbone)
    for content in (more, given):
        chosen = _over(chosen, content)
    chosen = replace(chosen, recipe=replace(chosen.recipe, **_given(recipe)))
    check_corpus(chosen.corpus)
    check_sizes(chosen)
    return chosen


def _one_backbone(given: Any, setting: Any) -> str | None:
    """Return the backbone that was given, as an argument or as a key of the settings."""
    if given and setting and str(given) != str(setting):
        raise UsageError("is given twice", argument="backbone", value=str(given))
    return str(given or setting) if given or setting else None


def check_sizes(spec: SweepSpec) -> None:
    """Raise `UsageError` for an N outside the ladder of decoders, or a backbone that cannot be frozen."""
    from scalelab.architecture import architecture_for
    from scalelab.sweep.frozen_spec import backbone_shape

    if spec.backbone:
        shape = backbone_shape(Path(spec.backbone))
        if any(spec.lora_rank) and shape.num_experts:
            raise UsageError("lora_rank needs a dense model, but this backbone has experts", argument="backbone")
        if any(spec.lora_rank) and find_spec("peft") is None:
            raise MissingPackageError("lora_rank needs peft, which is not installed: pip install 'scalelab[lora]'")
        return
    vocab = spec.tokenizer if isinstance(spec.tokenizer, int) else 257
    if spec.isoflop:
        from scalelab.sweep.isoflop_grid import isoflop_points

        for _ in isoflop_points(spec, max(vocab, 257)):
            pass
        return
    for N in [point[0] for point in spec.points] or spec.N:
        for length in spec.prefix_tokens:
            architecture_for(N, max(vocab, 257), length, **spec.family, ladder=spec.ladder)


def _over(spec: SweepSpec, content: Mapping[str, Any]) -> SweepSpec:
    """Return `spec` with the keys of `content` replaced. Errors name the key of the wrong value."""
    from scalelab.sweep.spec import parse

    listed: dict[str, Any] = {}
    for key, value in content.items():
        listed[key] = list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value
    try:
        return replace(spec, **parse(listed, spec.recipe))
    except UsageError as error:
        if error.argument is not None:
            raise
        words = str(error)
        key = next((key for key in content if words.startswith((f"{key} ", f"{key}:"))), None)
        if key is None:
            raise
        reason = words.removeprefix(key).removeprefix(":").strip()
        raise UsageError(reason, argument=key) from None


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def check_execution(device: str, executor: str, address: str | None, tensorboard: bool = False) -> None:
    """Raise `UsageError` for a device, executor or address that cannot be used."""
    check_device(device)
    check_executor(executor, address, tensorboard)


def runs_per_gpu(value: int | str) -> int:
    """Return the number of concurrent runs per GPU, 0 for "auto".

    Raises:
        UsageError: The value is neither "auto" nor a positive whole number.
    """
    return 0 if value == "auto" else whole_numbers([value], "per_gpu")[0]
