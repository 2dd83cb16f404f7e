"""Laws by name, and laws of the user's own: `file.py:NAME`."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np

from scalelab.errors import UsageError, choice_error
from scalelab.laws.base import VARIABLES, Law, Parameter, Points
from scalelab.laws.library import LAWS


def get_law(spec: str | Law) -> Law:
    """The law that `spec` names: one of `LAWS`, `file.py:NAME`, or a law itself.

    NAME is a `Law`, or a subclass of it without arguments. Raises `UsageError` naming what is wrong.
    """
    if isinstance(spec, Law):
        return _checked(spec, type(spec).__name__)
    if spec in LAWS:
        return LAWS[spec]
    file, colon, name = spec.rpartition(":")
    if not (colon and file.endswith(".py")):
        raise choice_error("law", spec, LAWS, ", or file.py:NAME for one of your own")
    return _checked(_from_file(Path(file), name), spec)


def _from_file(file: Path, name: str) -> object:
    if not file.is_file():
        raise UsageError(f"law {file}:{name}: no such file")
    module_name = f"_scalelab_law_{file.stem}"
    description = importlib.util.spec_from_file_location(module_name, file)
    assert description is not None  # a name that ends in .py always has a loader
    assert description.loader is not None
    module = importlib.util.module_from_spec(description)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        description.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise UsageError(f"law {file}:{name}: {file} does not run: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise UsageError(f"law {file}:{name}: {file} has no {name}")
    found = getattr(module, name)
    try:
        return found() if isinstance(found, type) else found
    except (Exception, SystemExit) as error:
        raise UsageError(f"law {file}:{name}: {name}() fails: {type(error).__name__}: {error}") from error


def _checked(law: object, spec: str) -> Law:
    """`law`, once evaluated: what is wrong with it is told before a fit begins."""
    if not isinstance(law, Law):
        raise UsageError(f"law {spec}: a {type(law).__name__}, not a scalelab.laws.Law")
    if LAWS.get(getattr(law, "name", "")) is law:
        return law
    parameters, variables = getattr(law, "parameters", ()), law.variables
    if not (isinstance(parameters, tuple) and parameters and all(isinstance(p, Parameter) for p in parameters)):
        raise UsageError(f"law {spec}: `parameters` must be a tuple of scalelab.laws.Parameter")
    if not (isinstance(variables, tuple) and variables and set(variables) <= {*VARIABLES}):
        raise UsageError(f"law {spec}: `variables` must be a tuple out of {', '.join(VARIABLES)}")
    name = getattr(law, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(f"law {spec}: needs a `name` of letters, digits, - and _")
    if name in LAWS or name == "all":
        raise UsageError(f"law {spec}: the name {name!r} is one of scalelab's own; choose another")
    if len(set(law.names)) < len(parameters):
        raise UsageError(f"law {spec}: two parameters have one name")
    middle = [np.sqrt(p.start[0] * p.start[1]) if p.positive else np.mean(p.start) for p in parameters]
    params, columns = np.array([middle] * 2), [np.array([v, 2 * v, 4 * v]) for v in (1e6, 1.0, 1e9)]
    others = {name: np.array([1e-3, 2e-3, 4e-3]) for name in VARIABLES if name not in ("N", "P", "D")}
    for points, what in (
        (Points(*columns, others=others), "at 3 points"),
        (
            Points(*(c[:2, None] for c in columns), others={name: c[:2, None] for name, c in others.items()}),
            "at a point of its own for each row",
        ),
    ):
        wanted = (2, np.shape(points.N)[-1])
        try:
            losses = np.asarray(law.loss(params, points))
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise UsageError(f"law {spec}: loss() fails: {type(error).__name__}: {error}") from error
        shape = losses.shape
        if losses.dtype.kind != "f":
            raise UsageError(f"law {spec}: loss() gave {losses.dtype}, not real numbers")
        if shape != wanted:
            raise UsageError(
                f"law {spec}: loss() of params [2, {len(parameters)}] {what} gave shape {shape}, not {wanted}; "
                "take parameters as params[..., i, None]"
            )
    return law
