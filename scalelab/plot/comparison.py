"""Figure of a cost comparison at equal loss."""

from __future__ import annotations

from matplotlib.figure import Figure

from scalelab.cost.compare import price_runs
from scalelab.cost.equal_loss import measured_runs
from scalelab.errors import UsageError
from scalelab.plan.comparison import CostComparison
from scalelab.plot.cost import Step, plot_cost
from scalelab.plot.layout import AxesLike, only_kind
from scalelab.plot.style import Size


def plot_comparison(
    comparison: CostComparison,
    kind: str | None = None,
    group: str | None = None,
    ax: AxesLike | None = None,
    size: Size | None = None,
) -> Figure:
    """Draw measured losses over memory and latency, with arrows for adding streams and for a larger N.

    Raises:
        UsageError: No runs were compared, or there are several groups and `group` is not one of them.
    """
    only_kind(kind, "comparison")
    titles = [title for title in comparison.groups if any(title == answer.title for answer in comparison)]
    if not titles:
        raise UsageError("there are no measured runs to draw: give `data`")
    if group is None and len(titles) > 1:
        raise UsageError(f"choose one of {', '.join(map(repr, titles))}", argument="group")
    title = group or titles[0]
    if title not in titles:
        raise UsageError(f"choose one of {', '.join(map(repr, titles))}", argument="group", value=title)
    question = comparison.question
    runs = measured_runs(comparison.groups[title].records, question.vocab)
    steps = [Step(a.streams.P, a.base_loss, a.loss, a.rows) for a in comparison if a.title == title]
    spans = ", ".join(map(str, question.lengths))
    heading = f"{title}; {question.priced_by}; mean over tokens in = tokens out = {spans}"
    return plot_cost(
        price_runs(question.price, runs, question.batches, question.lengths), steps, heading, ax=ax, size=size
    )
