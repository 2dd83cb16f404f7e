"""Resolution of a spec into runs, and the status of those that are already recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from scalelab.architecture import architecture_for
from scalelab.errors import UsageError
from scalelab.records.files import MODELS
from scalelab.records.store import record_path, record_status
from scalelab.status import RunStatus
from scalelab.sweep.frozen_spec import backbone_shape
from scalelab.sweep.isoflop_grid import isoflop_points
from scalelab.sweep.spec import SweepSpec
from scalelab.sweep.tasks import relative_cost
from scalelab.train.checkpoint import model_digest
from scalelab.train.corpus import Corpus, load_corpus
from scalelab.train.recipe import RunConfig, whole_steps
from scalelab.train.tokens import TokenData, check_vocabulary, tokenise

if TYPE_CHECKING:
    from scalelab.sweep.evaluations import RunTasks


@dataclass(frozen=True)
class ResolvedSweep:
    """Tokenised data, one config per run, most expensive first, and tasks for the trained models."""

    data: TokenData
    runs: tuple[RunConfig, ...]
    evaluation: RunTasks | None = None


def resolve(spec: SweepSpec) -> ResolvedSweep:
    """Load the text, train or load the tokenizer, and lay out the grid.

    Two values of N with the same architecture give one run.

    Raises:
        ScalelabError: the corpus or the tokenizer cannot be read, or the grid is not possible.
    """
    corpus = load_corpus(spec.corpus, spec.text_column)
    evaluation = _tasks(spec, corpus)
    data = tokenise(corpus, spec.backbone or spec.tokenizer)
    if spec.backbone:
        return ResolvedSweep(data, _frozen_runs(spec, data), evaluation)
    if spec.isoflop:
        return ResolvedSweep(data, _isoflop_runs(spec, data), evaluation)
    runs: dict[str, RunConfig] = {}
    grid = spec.points or tuple(product(spec.N, spec.P, spec.D))
    for (n_params, P, D), prefix_tokens in product(grid, spec.prefix_tokens):
        plain = architecture_for(n_params, data.vocab_size, prefix_tokens, **spec.family, ladder=spec.ladder)
        options = product(spec.aggregation, spec.loops, spec.seeds, spec.recipes, spec.plain_tokens)
        for kind, loops, seed, recipe, D1 in options:
            shape = replace(plain, aggregation=kind, loops=loops, single_prefix=spec.single_prefix).with_streams(P)
            first = whole_steps(D1, recipe) if D1 else 0
            config = RunConfig(shape, whole_steps(D, recipe), seed, data.text, recipe, first, spec.ladder)
            runs[config.key] = config
    return ResolvedSweep(data, _by_cost(runs), evaluation)


def _frozen_runs(spec: SweepSpec, data: TokenData) -> tuple[RunConfig, ...]:
    """Return the runs on a frozen backbone; P = 1 has one prefix, or only low-rank matrices."""
    folder = Path(spec.backbone)
    plain, digest = backbone_shape(folder), model_digest(folder)
    check_vocabulary(data.vocab_size, plain.vocab_size, folder)
    runs: dict[str, RunConfig] = {}
    grid = product(spec.P, spec.D, spec.prefix_tokens, spec.aggregation, spec.lora_rank, spec.seeds, spec.recipes)
    for P, D, prefix_tokens, kind, rank, seed, recipe in grid:
        shape = replace(plain, prefix_tokens=prefix_tokens, aggregation=kind, single_prefix=not rank).with_streams(P)
        config = RunConfig(
            shape, whole_steps(D, recipe), seed, data.text, recipe, 0, spec.ladder, str(folder), digest, rank
        )
        runs[config.key] = config
    return _by_cost(runs)


def _tasks(spec: SweepSpec, corpus: Corpus) -> RunTasks | None:
    if not spec.eval:
        return None
    from scalelab.sweep.evaluations import run_tasks

    try:
        return run_tasks(spec.eval, corpus)
    except UsageError as error:
        if error.argument != "tasks":
            raise
        raise UsageError(f"eval: {error.value}: {error.reason}") from None


def _isoflop_runs(spec: SweepSpec, data: TokenData) -> tuple[RunConfig, ...]:
    runs: dict[str, RunConfig] = {}
    for point in isoflop_points(spec, data.vocab_size):
        for kind, seed, recipe in product(spec.aggregation, spec.seeds, spec.recipes):
            shape = replace(point.shape, aggregation=kind)
            config = RunConfig(shape, point.n_tokens, seed, data.text, recipe, 0, spec.ladder)
            runs[config.key] = config
    return _by_cost(runs)


def _by_cost(runs: Mapping[str, RunConfig]) -> tuple[RunConfig, ...]:
    return tuple(sorted(runs.values(), key=relative_cost, reverse=True))


def recorded_statuses(runs: tuple[RunConfig, ...], out: Path) -> dict[str, str]:
    """Return the status of each run that has a record below `out`, by key.

    Raises:
        DataError: a record's file cannot be read or belongs to another run, so it must not be overwritten.
    """
    found = {config.key: record_status(record_path(out, config.key)) for config in runs}
    return {key: status for key, status in found.items() if status is not None}


def has_model(out: Path, key: str) -> bool:
    """Return true if the trained model of the run `key` is saved below `out`."""
    return (out / MODELS / key / "config.json").is_file()


def runs_to_train(runs: tuple[RunConfig, ...], known: Mapping[str, str], retry: bool = False) -> list[RunConfig]:
    """Return the runs that are not recorded as ok or, unless `retry`, as diverged.

    `known` are their statuses by key. A diverged run would only diverge again.
    """
    enough = (RunStatus.OK,) if retry else (RunStatus.OK, RunStatus.DIVERGED)
    return [config for config in runs if known.get(config.key) not in enough]
