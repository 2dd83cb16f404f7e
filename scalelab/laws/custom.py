"""Look up a law by name, or load a custom one from `file.py:NAME`."""

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
    """Return the law that `spec` names: one of `LAWS`, `file.py:NAME`, or a law itself.

    NAME is a `Law` object, or a subclass whose constructor needs no arguments.

    Raises:
        UsageError: there is no such law, or it is not usable.
    """
    if isinstance(spec, Law):
        return _checked(spec, type(spec).__name__)
    if spec in LAWS:
        return LAWS[spec]
    file, colon, name = spec.rpartition(":")
    if not (colon and file.endswith(".py")):
        raise choice_error("law", spec, LAWS, ", or file.py:NAME for a custom law")
    return _checked(_from_file(Path(file), name), spec)


def _from_file(file: Path, name: str) -> object:
    if not file.is_file():
        raise UsageError(f"law {file}:{name}: no such file")
    module_name = f"_scalelab_law_{file.stem}"
    description = importlib.util.spec_from_file_location(module_name, file)
    assert description is not None  # a name that ends in .py always has a loader
    assert description.loader is not None
    module = importlib.util.module_from_spec(description)
    sys.modules[module_name] = module  # dataclasses look up their module
    try:
        description.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # user code may raise anything
        raise UsageError(f"law {file}:{name}: importing {file} fails: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise UsageError(f"law {file}:{name}: {file} does not define {name}")
    found = getattr(module, name)
    try:
        return found() if isinstance(found, type) else found
    except (Exception, SystemExit) as error:
        raise UsageError(f"law {file}:{name}: {name}() fails: {type(error).__name__}: {error}") from error


def _checked(law: object, spec: str) -> Law:
    """Return `law` after evaluating it once, so that mistakes show before a fit starts."""
    if not isinstance(law, Law):
        raise UsageError(f"law {spec}: must be a scalelab.laws.Law, not {type(law).__name__}")
    if LAWS.get(getattr(law, "name", "")) is law:
        return law
    parameters, variables = getattr(law, "parameters", ()), law.variables
    if not (isinstance(parameters, tuple) and parameters and all(isinstance(p, Parameter) for p in parameters)):
        raise UsageError(f"law {spec}: `parameters` must be a tuple of scalelab.laws.Parameter")
    if not (isinstance(variables, tuple) and variables and set(variables) <= {*VARIABLES}):
        raise UsageError(f"law {spec}: `variables` must be a tuple of names out of {', '.join(VARIABLES)}")
    name = getattr(law, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(f"law {spec}: `name` must consist of letters, digits, `.`, `-` and `_`")
    if name in LAWS or name == "all":
        raise UsageError(f"law {spec}: `name` {name!r} is taken by a built-in law; choose another")
    if len(set(law.names)) < len(parameters):
        raise UsageError(f"law {spec}: two parameters have the same name")
    middle = [np.sqrt(p.start[0] * p.start[1]) if p.positive else np.mean(p.start) for p in parameters]
    params, columns = np.array([middle] * 2), [np.array([v, 2 * v, 4 * v]) for v in (1e6, 1.0, 1e9)]
    others = {name: np.array([1e-3, 2e-3, 4e-3]) for name in VARIABLES if name not in ("N", "P", "D")}
    for points, what in (
        (Points(*columns, others=others), "at 3 points"),
        (
            Points(*(c[:2, None] for c in columns), others={name: c[:2, None] for name, c in others.items()}),
            "at a different point for each row",
        ),
    ):
        wanted = (2, np.shape(points.N)[-1])
        try:
            losses = np.asarray(law.loss(params, points))
        except (Exception, SystemExit) as error:  # user code may raise anything
            raise UsageError(f"law {spec}: loss() fails: {type(error).__name__}: {error}") from error
        shape = losses.shape
        if losses.dtype.kind != "f":
            raise UsageError(f"law {spec}: loss() must return floats, not {losses.dtype}")
        if shape != wanted:
            raise UsageError(
                f"law {spec}: loss() of params [2, {len(parameters)}] {what} must have shape {wanted}, not {shape}; "
                "take parameters as params[..., i, None]"
            )
    return law
