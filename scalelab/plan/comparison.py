"""Compare streams with growing N to the same loss: choose runs, find the plain model of equal loss, price both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scalelab.architecture import Architecture
from scalelab.cost import equal_loss
from scalelab.cost.compare import Comparison, Price, Size
from scalelab.cost.compare import compare as compare_costs
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.fit import FitResult, Note
from scalelab.fit.derived import extrapolation_notes, n_equivalent, n_equivalent_draws, predicted
from scalelab.fit.mixture import MixtureLaw, law_share, share_text
from scalelab.laws import Law
from scalelab.shown import Shown
from scalelab.units import format_count

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.fit import Group

_SAME_TOKENS = 0.01  # relative


@dataclass(frozen=True)
class Question:
    """The request of a comparison: models, training tokens D, and the price function."""

    hidden: int
    streams: tuple[int, ...]
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    vocab: int  # for runs without one
    D: float | None
    price: Price
    priced_by: str  # as text


@dataclass(frozen=True)
class Answer:
    """The comparison for one P and group: the model with streams, its loss, the plain model of equal loss, prices."""

    title: str
    slug: str
    streams: Architecture
    n_params: float
    loss: float
    base_loss: float | None  # of the same model with P = 1, if known
    size: Size
    convention: str
    plain_hidden: float  # infinite if no plain model has that loss
    source: str  # of the losses, as text
    notes: tuple[Note, ...]
    rows: tuple[Comparison, ...]


@dataclass(frozen=True)
class CostComparison(Shown):
    """Costs added by streams and by growing N to the same loss, with an answer for each P.

    `failures` are the errors of groups that could not be compared, `notes` deviations of the price from the request,
    and `groups` the groups of runs by title, if any.
    """

    question: Question
    answers: tuple[Answer, ...]
    failures: tuple[ScalelabError, ...]
    notes: tuple[str, ...]
    groups: Mapping[str, Group]

    _report: ClassVar[str] = "scalelab.reports.comparison:comparison_report"
    _figure: ClassVar[str] = "scalelab.plot.comparison:plot_comparison"
    _json: ClassVar[str] = "scalelab.reports.comparison:comparison_json"

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers)

    def __len__(self) -> int:
        return len(self.answers)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per group, P and batch size, in bytes and seconds, unrounded."""
        import pandas as pd

        return pd.DataFrame(self.to_dict())

    def __repr__(self) -> str:
        text = ", ".join(f"P {a.streams.P}: plain N {format_count(a.size.value)}" for a in self.answers[:4])
        return f"<CostComparison hidden {self.question.hidden}, {self.question.priced_by}: {text}>"


def compare_all(
    question: Question,
    groups: Sequence[Group | None],
    law: Law | None,
    saved: FitResult | None,
    notes: Sequence[str] = (),
) -> CostComparison:
    """Answer the question for each group. Raises the error of the first group if no group can be compared."""
    answers: list[Answer] = []
    failures: list[ScalelabError] = []
    for group in groups:
        try:
            answers += answer(question, group, law, saved)
        except ScalelabError as error:
            if len(groups) == 1:
                raise
            failures.append(error)  # other groups may have the sizes
    if not answers:
        raise failures[0]
    known = {group.title: group for group in groups if group is not None}
    return CostComparison(question, tuple(answers), tuple(failures), tuple(notes), known)


def comparable_groups(
    data: Any,
    columns: Mapping[str, str] | None,
    where: str | None,
    corpus: str | None,
    D: float | None,
    by_tokens: bool,
) -> list[Group]:
    """Return groups of comparable runs of `corpus` and, with `by_tokens`, of D. Raises `UsageError` if empty."""
    from scalelab import records
    from scalelab.fit import group_records

    table = data if isinstance(data, records.RunTable) else records.read(data, columns, where)
    groups = group_records(table, by_tokens=by_tokens)
    name = data if isinstance(data, str) else "the data"
    if corpus is not None:
        texts = sorted(set(table.records["corpus"].dropna()))
        groups = [g for g in groups if (g.records["corpus"] == corpus).any()]
        if not groups:
            raise UsageError(
                f"not in {name}; choose one of {', '.join(texts) or '(none has a name)'}",
                argument="corpus",
                value=corpus,
            )
    if D is not None and by_tokens:
        known = sorted({float(d) for g in groups for d in g.records["n_tokens"].dropna()})
        groups = [g for g in groups if ((g.records["n_tokens"] / D - 1).abs() <= _SAME_TOKENS).any()]
        if not groups:
            have = ", ".join(map(format_count, known)) or "(no run has one)"
            raise UsageError(f"not in {name}; choose one of {have}", argument="D", value=format_count(D))
    return groups


def group_of(saved: FitResult, groups: list[Group], data: Any) -> Group:
    """Return the group that was fitted, possibly with newer runs. Raises `UsageError` if there is none."""
    for same in (lambda group: group.title == saved.group, lambda group: _are_the_runs(group, saved)):
        for group in filter(same, groups):
            return group
    titles = "; ".join(group.title for group in groups)
    name = data if isinstance(data, str) else "the table"
    raise UsageError(f"`fit` is of {saved.group!r}, and {name} has {titles}: give the fitted data, or `law`")


def _are_the_runs(group: Group, saved: FitResult) -> bool:
    """Return true if exactly these runs were fitted, even under another name, since files may be renamed."""
    from scalelab.fit.data import fit_data

    try:
        return fit_data(group.records, saved.options.convention).digest == saved.data_hash
    except DataError:
        return False


def answer(question: Question, group: Group | None, law: Law | None, saved: FitResult | None) -> list[Answer]:
    """Return an `Answer` for each P: by `saved`, else by `law` fitted to `group`, else by the losses of `group`."""
    runs = [] if group is None else equal_loss.measured_runs(group.records, question.vocab)
    if group is None:
        family = equal_loss.paper_decoder(question.hidden, question.vocab)
    elif saved is None and law is None:
        return [_by_measurement(question, group, runs, P) for P in question.streams]
    else:
        family = equal_loss.family_of(runs, question.hidden, group.title)
    fit = saved
    if fit is None:
        from scalelab.fit import fit_group

        assert group is not None
        assert law is not None
        fit = fit_group(group, law)
    D = question.D
    if "D" in fit.law.variables:
        D = D or float(fit.data.D.max())
    elif group is not None:
        D = None  # it selected the runs
    about = {"title": fit.group, "slug": "fit"} if group is None else {"title": group.title, "slug": group.slug}
    return [_by_law(question, fit, family.with_streams(P), D, about) for P in question.streams]


def _by_measurement(question: Question, group: Group, runs: list[equal_loss.MeasuredRun], P: int) -> Answer:
    run = equal_loss.find_run(runs, question.hidden, P, group.title)
    n_params, ends = equal_loss.equal_loss_size(runs, run.loss, group.title)
    between = " and ".join(format_count(n, 4) for n in ends)
    return _priced(
        question,
        run.architecture,
        Size(n_params),
        "paper",
        n_params=run.n_params,
        loss=run.loss,
        base_loss=equal_loss.plain_loss(runs, run.architecture),
        title=group.title,
        slug=group.slug,
        source=f"measured losses of P = 1, linear in ln N between {between}",
        notes=(),
    )


def _by_law(
    question: Question, fit: FitResult, model: Architecture, D: float | None, about: Mapping[str, str]
) -> Answer:
    convention = fit.options.convention
    N = model.count_params(convention)
    found = n_equivalent(fit, N, model.P, D)
    notes = [n for n in fit.notes if n.severity == "serious"] + extrapolation_notes(fit, N, model.P, D)
    if isfinite(found.value):
        notes += extrapolation_notes(fit, found.value, 1.0, D)
    at = "" if D is None else f" at D {format_count(D)}"
    return _priced(
        question,
        model,
        Size(found.value, found.low, found.high, tuple(n_equivalent_draws(fit, N, model.P, D))),
        convention,
        n_params=N,
        loss=predicted(fit, N, model.P, D).value,
        base_loss=predicted(fit, model.with_streams(1).count_params(convention), 1.0, D).value,
        source=_source(fit, model, N, D, at),
        notes=tuple({(n.code, n.message): n for n in notes}.values()),
        **about,
    )


def _source(fit: FitResult, model: Architecture, N: float, D: float | None, at: str) -> str:
    """Return the law, or the laws of an average and their share of the variance of the size, as text."""
    if not isinstance(fit.law, MixtureLaw):
        return f"the {fit.law.name} law{at}, {fit.equation()}"
    draws = n_equivalent_draws(fit, N, model.P, D)
    share = law_share(fit, np.log(draws)) if len(draws) == len(fit.draws) else None
    between = "" if share is None else f"; {share_text(share)} of the variance of ln N is between the laws"
    return f"the {fit.law.title}{at}{between}"


def _priced(question: Question, streams: Architecture, size: Size, convention: str, **about: Any) -> Answer:
    hidden = inf
    if isfinite(size.value):
        hidden = equal_loss.decoder_of_size(streams.with_streams(1), size.value, convention).hidden_size
    rows = compare_costs(question.price, streams, size, question.batches, question.lengths, convention)
    return Answer(streams=streams, size=size, convention=convention, plain_hidden=hidden, rows=tuple(rows), **about)
