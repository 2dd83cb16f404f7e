"""Reports of paired differences: a table, and a verdict on each level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

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
    what = "change" if found.follows_itself else "difference"
    headings = [*apart, *levels, what, "95 % interval", "pairs", "lower in", "would decide"]
    if found.follows_itself:
        headings[-3:] = ["series", "falls in", "would decide"]
    table = Table(found.title, headings, keys=len(apart) + len(levels))
    for step in found.steps:
        cells = [level_text(step.group)] if found.each else []
        cells += [level_text(step.level), level_text(step.against)] if levels else []
        cells += [f"{step.mean.value:+.4f}", _interval(step)]
        cells += [
            str(len(step.differences)),
            str(step.lower),
            "" if step.needed is None else plural(step.needed, "pair"),
        ]
        table.add(*cells)
    lines = [Line(text, "strong") for text in _verdicts(found)]
    if found.unpaired:
        lines.append(Line(f"{plural(found.unpaired, 'run')} without a partner: not used", "left out"))
    if found.edges:
        text = (
            f"{plural(found.edges, 'group')} of runs with the least loss at the smallest or largest {found.best}; "
            "this biases the result: train more values"
        )
        lines.append(Line(text, "left out"))
    return Report.of([table, *lines])


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
        yield f"Not decided: {_listed(found, others, 'against')}."
    alike = [step for step in found.steps if step.seeds is not None]
    if alike:
        fewest, most = (end(step.seeds or 0 for step in alike) for end in (min, max))
        over = plural(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
        yield f"Pairs of one seed are alike, so intervals are over {over}: {_listed(found, alike, 'against')}."
    if len(decided) and len(found.steps) >= _MANY:
        yield f"Of {len(found.steps)} such intervals about one in twenty excludes 0 by chance."


def _listed(found: Pairs, steps: Sequence[Step], between: str) -> str:
    rest = len(steps) - _SHOWN
    return "; ".join(_words(found, step, between) for step in steps[:_SHOWN]) + (
        f"; and {rest} more" if rest > 0 else ""
    )


def _words(found: Pairs, step: Step, between: str) -> str:
    apart = f" ({found.each} = {level_text(step.group)})" if found.each else ""
    if found.follows_itself:
        return f"with {found.by}{apart}"
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
    about |= {"best": found.best, "edges": found.edges}
    return as_json_value({**about, "steps": steps, "unpaired": found.unpaired})
