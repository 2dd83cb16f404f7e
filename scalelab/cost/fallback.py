"""Choice of cost models, with the roofline as a fallback for what llm-analysis cannot price."""

from __future__ import annotations

from dataclasses import dataclass

from scalelab.architecture import Architecture
from scalelab.cost.engines import ENGINES, get_engine
from scalelab.cost.request import Device, Precision, Workload
from scalelab.cost.shape import ServedModel
from scalelab.errors import NotPricedError

LLM_ANALYSIS, ROOFLINE, BOTH = "llm-analysis", "roofline", "both"


@dataclass(frozen=True)
class Chosen:
    """Names of the chosen cost models, and a note if a fallback was needed."""

    engines: tuple[str, ...]
    note: str = ""


def choose_engines(
    engine: str, model: Architecture | ServedModel, workload: Workload, device: Device, precision: Precision
) -> Chosen:
    """Choose the cost models for `engine`, a name or "both".

    Raises:
        UsageError: There is no cost model of this name.
    """
    if engine == BOTH:
        names = tuple(ENGINES)
    else:
        get_engine(engine)
        names = (engine,)
    if LLM_ANALYSIS not in names:
        return Chosen(names)
    try:
        ENGINES[LLM_ANALYSIS](model, workload, device, precision)
    except NotPricedError as error:
        return Chosen((ROOFLINE,), f"priced by the roofline: {error.because}")
    return Chosen(names)
