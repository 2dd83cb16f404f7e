"""From a spec to resolved runs, and which of them are already done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from scalelab.architecture import architecture_for
from scalelab.records.files import MODELS
from scalelab.records.store import record_path, record_status
from scalelab.status import RunStatus
from scalelab.sweep.spec import SweepSpec
from scalelab.sweep.tasks import relative_cost
from scalelab.train.corpus import load_corpus
from scalelab.train.recipe import RunConfig, whole_steps
from scalelab.train.tokens import TokenData, tokenise


@dataclass(frozen=True)
class ResolvedSweep:
    """Everything a worker needs: the data and one config a run, longest first."""

    data: TokenData
    runs: tuple[RunConfig, ...]


def resolve(spec: SweepSpec) -> ResolvedSweep:
    """Load the text, train or load the tokenizer, and lay out the grid.

    Two N of the spec that find the same architecture make one run. Raises `ScalelabError`.
    """
    data = tokenise(load_corpus(spec.corpus, spec.text_column), spec.tokenizer)
    runs: dict[str, RunConfig] = {}
    for n_params, prefix_tokens in product(spec.N, spec.prefix_tokens):
        dense_or_not = {"num_experts": spec.num_experts, "experts_per_token": spec.experts_per_token}
        plain = architecture_for(n_params, data.vocab_size, prefix_tokens, **dense_or_not, ladder=spec.ladder)
        for kind, P, D, seed, recipe, D1 in product(
            spec.aggregation, spec.P, spec.D, spec.seeds, spec.recipes, spec.plain_tokens
        ):
            shape = replace(plain, aggregation=kind).with_streams(P)
            first = whole_steps(D1, recipe) if D1 else 0
            config = RunConfig(shape, whole_steps(D, recipe), seed, data.text, recipe, first, spec.ladder)
            runs[config.key] = config
    return ResolvedSweep(data, tuple(sorted(runs.values(), key=relative_cost, reverse=True)))


def statuses(runs: tuple[RunConfig, ...], out: Path) -> dict[str, str]:
    """{key: status} of the runs that have a record below `out`, whatever became of them.

    Raises `DataError` naming a record's file that cannot be read, or is another run's: it is neither done nor
    may it be overwritten.
    """
    found = {config.key: record_status(record_path(out, config.key)) for config in runs}
    return {key: status for key, status in found.items() if status is not None}


def has_model(out: Path, key: str) -> bool:
    """Whether the trained model of the run `key` is kept below `out`."""
    return (out / MODELS / key / "config.json").is_file()


def missing(runs: tuple[RunConfig, ...], known: Mapping[str, str], retry: bool = False) -> list[RunConfig]:
    """The runs that are still to be trained by their `statuses`: all but the ok and, since they would only diverge
    again, the diverged, unless `retry`."""
    enough = (RunStatus.OK,) if retry else (RunStatus.OK, RunStatus.DIVERGED)
    return [config for config in runs if known.get(config.key) not in enough]
