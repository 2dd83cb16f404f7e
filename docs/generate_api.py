"""Write docs/api.md: the public functions, their arguments and what their results can do, from the code itself."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import scalelab
from scalelab.api.conversion import Conversion
from scalelab.api.diagnosis import Diagnosis
from scalelab.api.evaluation import ModelScores
from scalelab.api.generation import Generation
from scalelab.api.measuring import Measurements
from scalelab.api.runs import Runs
from scalelab.api.second_stage import SecondStage
from scalelab.api.sweeps import SweepPlan, SweepResult
from scalelab.cost.devices import Devices
from scalelab.cost.prices import Prices
from scalelab.fit.answers import Allocations, Predictions, Profiles
from scalelab.fit.many import Comparisons, FitResults
from scalelab.fit.result import FitResult
from scalelab.fit.select import LawComparison
from scalelab.importers import Imported
from scalelab.plan.answer import Plan
from scalelab.plan.comparison import CostComparison
from scalelab.records import RunTable

RESULTS = (
    *(RunTable, FitResult, FitResults, Predictions, Allocations, Profiles, LawComparison, Comparisons, Prices, Devices),
    *(CostComparison, Plan, SweepResult, SweepPlan, Runs, Conversion, SecondStage, Diagnosis, Generation, Measurements),
    Imported,
    ModelScores,
)
COMMON = ("report", "summary", "to_frame", "to_dict", "plot")
HEAD = """# Public API

Generated from the code by `python docs/generate_api.py`. `import scalelab as sl` gives all functions; arguments after
`*` are given by name. Strings with units (`"7B"`, `"4GB"`, `"500ms"`) are accepted wherever numbers are. Errors about
an argument are `UsageError`, which is a `ValueError`, and name it in `.argument`.

"""


def main() -> None:
    """Write the file."""
    Path(__file__).with_name("api.md").write_text(text(), encoding="utf-8")


def text() -> str:
    """Return the whole page."""
    lines = ["## Functions", "", "| function | what it does |", "|---|---|"]
    functions = {name: getattr(scalelab, name) for name in scalelab.__all__}
    lines += [f"| [`{name}`](#{name}) | {first_line(of)} |" for name, of in functions.items()]
    for name, of in functions.items():
        lines += ["", f"### {name}", "", "```python", signature(name, of), "```", "", *documentation(of)]
    lines += ["", "## Results", ""]
    lines += [f"Each has, where it makes sense, {', '.join(f'`.{verb}()`' for verb in COMMON)}, and shows itself in"]
    lines += ["Jupyter as tables and sentences. Beside these:", "", "| result | what it is | more |", "|---|---|---|"]
    lines += [f"| `{of.__name__}` | {first_line(of)} | {', '.join(own(of))} |" for of in RESULTS]
    return HEAD + "\n".join(lines) + "\n"


def first_line(of: object) -> str:
    """Return the first sentence of a docstring."""
    return (inspect.getdoc(of) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def signature(name: str, of: object) -> str:
    """Return the signature, an argument a line where there are many."""
    found = inspect.signature(of)  # type: ignore[arg-type]  # it is a function
    parameters = [_parameter(p) for p in found.parameters.values()]
    kinds = [p.kind for p in found.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    body = "".join(f"    {parameter},\n" for parameter in parameters)
    return f"{name}(\n{body}) -> {found.return_annotation}"


def _parameter(p: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}.get(p.kind, "")
    default = "" if p.default is inspect.Parameter.empty else f" = {p.default!r}"
    return f"{stars}{p.name}: {p.annotation}{default}"


def documentation(of: object) -> list[str]:
    """Return the docstring as Markdown: sections as lists."""
    found: list[str] = []
    for line in (inspect.getdoc(of) or "").splitlines():
        if re.fullmatch(r"(Args|Returns|Raises):", line):
            found += [f"**{line[:-1]}**", ""]
        elif match := re.match(r"    (\w+): (.*)", line):
            found.append(f"- `{match[1]}`: {match[2]}")
        else:
            found.append(line.removeprefix("    ") if line.startswith("        ") else line.strip())
    return [line.replace("``", "`") for line in found]


def own(of: type) -> list[str]:
    """Return the public attributes and methods of a result beside the common ones."""
    names = [name for name in vars(of) if not name.startswith("_") and name not in COMMON]
    names += [f.name for f in fields(of) if f.name not in names] if is_dataclass(of) else []
    return [f"`.{name}`" for name in names]


if __name__ == "__main__":
    main()
