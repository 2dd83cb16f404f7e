"""Reports of paired differences: a table, and a verdict on each level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from scalelab.analysis.pair_optima import LEAST
from scalelab.analysis.pair_settings import level_text
from scalelab.reports.blocks import Line, Report, Table
from scalelab.reports.json_values import as_json_value
from scalelab.units import plural

if TYPE_CHECKING:
    from scalelab.analysis.pairs import Pairs, Step

_SHOWN = 6  # levels in a sentence
_MANY = 10  # intervals, of which some exclude 0 by chance


def pairs_report(found: Pairs) -> Report:
    """Return the differences, and what they decide."""
    apart = [f"<{found.each}"] if found.each else []
    levels = [] if found.follows_itself else [f"<{found.by}", "<against"]
    what, count, lower = (
        ("change", "series", "falls in") if found.follows_itself else ("difference", "pairs", "lower in")
    )
    headings = [*apart, *levels, what, "95 % interval", count, lower, "would decide"]
    table = Table(found.title, headings, keys=len(apart) + len(levels))
    for step in found.steps:
        cells = [level_text(step.group)] if found.each else []
        cells += [level_text(step.level), level_text(step.against)] if levels else []
        cells += [f"{step.mean.value:+.4f}", _interval(step)]
        cells += [
            str(len(step.differences)),
            str(step.lower),
            "" if step.needed is None else _count(found, step.needed),
        ]
        table.add(*cells)
    lines = [Line(text, "strong") for text in _verdicts(found)]
    return Report.of([table, *lines, *(Line(text, "left out") for text in _left_out(found))])


def _left_out(found: Pairs) -> Iterator[str]:
    """Yield sentences on the runs that were not used."""
    if found.unpaired and found.follows_itself:
        yield f"{plural(found.unpaired, 'series', 'series')} with a single {found.by}: not used"
    elif found.unpaired:
        what = "group of runs" if found.best else "run"
        yield f"{plural(found.unpaired, what, 'groups of runs' if found.best else None)} without a partner: not used"
    if found.optima is None:
        return
    if edges := found.optima.edges:
        groups = plural(edges, "group of runs", "groups of runs")
        yield (
            f"{groups} with the least loss at the smallest or largest {found.best}; this biases the result: train more "
            "values"
        )
    if small := found.optima.small:
        groups = plural(small, "group of runs", "groups of runs")
        yield f"{groups} with fewer than {LEAST} values of {found.best}"


def _count(found: Pairs, n: int) -> str:
    return plural(n, "series", "series") if found.follows_itself else plural(n, "pair")


def _subject(found: Pairs) -> str:
    """Return the subject and verb of a verdict."""
    what = f"the best {found.best}" if found.best else found.value
    if found.follows_itself:
        return what
    return f"the change of {found.compared} with {found.along} is" if found.along else f"{what} is"


def _interval(step: Step) -> str:
    low, high = step.mean.low, step.mean.high
    return "" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"


def _verdicts(found: Pairs) -> Iterator[str]:
    """Yield sentences on what these pairs decide, and on what they do not."""
    decided = [step for step in found.steps if step.decided]
    fall, rise, against = ("falls", "rises", "with") if found.follows_itself else ("lower at", "higher at", "than at")
    for words, steps in (
        (fall, [step for step in decided if step.mean.value < 0]),
        (rise, [step for step in decided if step.mean.value > 0]),
    ):
        if steps:
            yield f"Decided: {_subject(found)} {words} {_listed(found, steps, against)}."
    others = [step for step in found.steps if not step.decided]
    if others:
        yield f"Not decided: {'the change ' if found.follows_itself else ''}{_listed(found, others, 'against')}."
    alike = [step for step in found.steps if step.seeds is not None]
    if alike:
        fewest, most = (end(step.seeds or 0 for step in alike) for end in (min, max))
        over = plural(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
        what = "Series" if found.follows_itself else "Pairs"
        yield f"{what} of one seed are alike, so intervals are over {over}: {_listed(found, alike, 'against')}."
    if len(decided) and len(found.steps) >= _MANY:
        yield f"Of {len(found.steps)} such intervals about one in twenty excludes 0 by chance."


def _listed(found: Pairs, steps: Sequence[Step], between: str) -> str:
    if found.follows_itself:
        at = f" at {found.each} = {', '.join(level_text(step.group) for step in steps)}" if found.each else ""
        return f"with {found.by}{at}"
    rest = len(steps) - _SHOWN
    return "; ".join(_words(found, step, between) for step in steps[:_SHOWN]) + (
        f"; and {rest} more" if rest > 0 else ""
    )


def _words(found: Pairs, step: Step, between: str) -> str:
    apart = f" ({found.each} = {level_text(step.group)})" if found.each else ""
    return f"{found.by} = {level_text(step.level)} {between} {level_text(step.against)}{apart}"


def pairs_json(found: Pairs) -> dict[str, Any]:
    """Return the differences, unrounded."""
    steps = [
        {
            "group": step.group,
            "level": step.level,
            "against": step.against,
            "mean": step.mean,
            "differences": step.differences.tolist(),
            "lower": step.lower,
            "needed": step.needed,
            "seeds": step.seeds,
        }
        for step in found.steps
    ]
    about = {"by": found.by, "each": found.each, "along": found.along, "ends": found.ends, "value": found.value}
    if found.optima is not None:
        about |= {"best": found.best, "edges": found.optima.edges, "small": found.optima.small}
    return as_json_value({**about, "steps": steps, "unpaired": found.unpaired})
