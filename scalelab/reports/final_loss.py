"""Words for forecasts of final losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalelab.units import format_count, format_interval

if TYPE_CHECKING:
    from scalelab.analysis.final_loss import FinalLoss, Measured, RunFacts

_WIDE = 0.02  # half of an interval, from which two decimals are enough


def forecast_text(forecast: FinalLoss) -> str:
    """Return a forecast with its interval, ``2.81 (2.79–2.84)``, or "…" if there is none."""
    if forecast.loss is None or forecast.low is None or forecast.high is None:
        return "…"
    decimals = 2 if forecast.high - forecast.low > 2 * _WIDE else 3

    def form(loss: float) -> str:
        return f"{loss:.{decimals}f}"

    return f"{form(forecast.loss)} ({format_interval(forecast.low, forecast.high, form)})"


def rival_text(run: RunFacts, rival: Measured) -> str:
    """Return which finished run will stay better than `run`, by N, P and the settings that differ, and its loss."""
    facts = rival.facts
    words = [f"N {format_count(facts.N)}", f"P {facts.P:.0f}"]
    words += [f"D {format_count(facts.D)}"] if facts.D != run.D else []
    # The peak rate follows the width by a rule; with the same shape another rate was chosen.
    words += [f"lr {facts.lr:.3g}"] if facts.lr != run.lr and (facts.N, facts.P) == (run.N, run.P) else []
    return f"will not beat {'  '.join(words)} ({rival.loss:.3f})"
