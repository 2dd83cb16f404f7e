"""Expressions over a table's columns, such as ``flops/(6*n_params)``, and conditions, such as ``loss < 3``."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from scalelab.errors import UsageError
from scalelab.records.numbers import to_floats
from scalelab.units import parse_count

# 100M, 7b or .5T; or quoted text, which is left unchanged.
_COUNT = re.compile(r"""'[^']*'|"[^"]*"|(?<![\w.])(?:\d+\.?\d*|\.\d+)[kmbgtKMBGT]\b""")
_QUOTED = re.compile(r"""`([^`]+)`|'([^']*)'|"([^"]*)\"""")
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UAdd, ast.USub, ast.unaryop)
_CONDITION = (  # nodes allowed in a condition: no calls, no attributes
    *(ast.Expression, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Name, ast.Constant, ast.List, ast.Tuple),
    *(ast.expr_context, ast.cmpop, ast.boolop, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.unaryop),
)
_FUNCTIONS = {
    "ln": np.log,
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "min": np.minimum,
    "max": np.maximum,
}
_FEW_NAMES = 12
SHORT_NAMES = {"N": "n_params", "P": "n_streams", "D": "n_tokens"}  # usual symbols of the columns


def known_names(names: Iterable[object]) -> str:
    """Return column names for a message: the first ones, and the number of others."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - _FEW_NAMES} more" if len(texts) > _FEW_NAMES else ""
    return ", ".join(text if len(text) <= 40 else text[:37] + "..." for text in texts[:_FEW_NAMES]) + more


def all_columns(table: pd.DataFrame) -> list[object]:
    """Return the columns of `table` and of the file that it was read from, including those that were not needed."""
    known = table.attrs.get("columns", [])
    return [*known, *(name for name in table.columns if name not in known)]


def is_expression(text: str) -> bool:
    """Return true if `text`, which is not a column name, looks like an expression."""
    return bool(re.search(r"[-+*/^()`\d]", text))


def compute(text: str, table: pd.DataFrame) -> tuple[pd.Series, set[str]]:
    """Return the value of an arithmetic expression over the columns of `table`, and the set of columns it uses.

    Names with spaces or other special characters are in quotes or backticks. Constants may be counts such as 7B.

    Raises:
        KeyError: it uses a column that `table` does not have, named by the argument.
        ValueError: it is not an expression, or uses something that is not allowed.
    """
    identifiers: dict[str, str] = {}
    code = _with_identifiers(text.replace("^", "**"), table, identifiers, quoted=True)
    code = _COUNT.sub(lambda m: m[0] if m[0][0] in "'\"" else repr(parse_count(m[0])), code)
    try:
        tree = ast.parse(code.strip(), mode="eval")
    except SyntaxError:
        raise ValueError("not an expression such as flops/(6*n_params) or ln(ppl)") from None
    used: set[str] = set()
    with np.errstate(all="ignore"):
        value = _value(tree.body, table, identifiers, used)
    return pd.Series(value, index=table.index, dtype=float), used


def _value(node: ast.AST, table: pd.DataFrame, identifiers: dict[str, str], used: set[str]):
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if isinstance(node, ast.Name):
        name = identifiers.get(node.id, node.id)
        if name not in table:
            raise KeyError(name)
        used.add(name)
        return to_floats(table[name])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _value(node.operand, table, identifiers, used)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = (_value(side, table, identifiers, used) for side in (node.left, node.right))
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return np.divide(left, right)
        if isinstance(node.op, ast.Pow):
            return np.power(left, right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        function = _FUNCTIONS.get(node.func.id)
        if function is None:
            raise ValueError(f"unknown function {node.func.id!r}; use one of {', '.join(_FUNCTIONS)}")
        if len(node.args) != function.nin:
            raise ValueError(f"{node.func.id} takes {function.nin} argument{'s' if function.nin > 1 else ''}")
        return function(*(_value(argument, table, identifiers, used) for argument in node.args))
    raise ValueError(f"only column names, numbers, + - * / ^ and {', '.join(_FUNCTIONS)} are allowed")


def rows_where(table: pd.DataFrame, where: str) -> tuple[np.ndarray, set[str]]:
    """Return a mask of the rows that satisfy `where`, and the set of columns it names.

    For example ``n_tokens > 100M and corpus == 'c4'``. Names with spaces or special characters are in backticks or
    quotes: ``"model size" > 1B``.

    Raises:
        UsageError: `where` is not a condition, or names a column that `table` does not have.
    """
    identifiers: dict[str, str] = {}
    code = _with_identifiers(where, table, identifiers, quoted=False)
    code = _COUNT.sub(lambda m: m[0] if m[0][0] in "'\"" else repr(parse_count(m[0])), code)
    table = table.assign(**{s: table[n] for s, n in SHORT_NAMES.items() if s not in table and n in table})
    frame = table.copy()
    for name in table.columns:  # text columns that hold only numbers become numeric
        if isinstance(table[name], pd.Series):
            numbers = to_floats(table[name])
            if numbers.notna().sum() == table[name].notna().sum():
                frame[name] = numbers
    frame = frame.rename(columns={name: identifier for identifier, name in identifiers.items()})
    try:
        tree = ast.parse(code.strip(), mode="eval")
        nodes = list(ast.walk(tree))
        if not all(isinstance(node, _CONDITION) for node in nodes):
            raise ValueError("only column names, constants, comparisons and + - * / are allowed")
        names = {identifiers.get(node.id, node.id) for node in nodes if isinstance(node, ast.Name)}
        for column, alias in _compared_with_text(tree, frame).items():
            frame[alias] = _as_text(table[identifiers.get(column, column)])
        mask = frame.eval(ast.unparse(tree), engine="python")
    except Exception as error:  # pandas may raise any error of the expression
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, SyntaxError):
            reason = "not a condition such as \"corpus == 'pile' and n_tokens > 100M\""
            if any(not str(name).isidentifier() for name in table.columns):
                reason += "; put names with spaces or special characters in backticks"
        reason = f"{reason}; the columns are {known_names(all_columns(table))}"
        raise UsageError(reason, argument="where", value=where) from None
    if not (isinstance(mask, pd.Series) and pd.api.types.is_bool_dtype(mask)):
        raise UsageError("not a condition such as 'n_tokens > 100M'", argument="where", value=where)
    return mask.fillna(False).to_numpy(dtype=bool), names


def _compared_with_text(tree: ast.AST, frame: pd.DataFrame) -> dict[str, str]:
    """Rename the columns of numbers that `tree` compares with quoted text, and return the new names."""
    renamed: dict[str, str] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        parts = [part for side in (node.left, *node.comparators) for part in getattr(side, "elts", [side])]
        if not any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts):
            continue
        for part in parts:
            if isinstance(part, ast.Name) and part.id in frame and pd.api.types.is_numeric_dtype(frame[part.id]):
                renamed.setdefault(part.id, f"_text_{len(renamed)}")
                part.id = renamed[part.id]
    return renamed


def _as_text(column: pd.Series) -> pd.Series:
    """Return the values of `column` as a person would type them; 7 for 7.0, and 007 stays."""
    if not pd.api.types.is_float_dtype(column):
        return column.astype("string")
    return column.map(lambda value: pd.NA if pd.isna(value) else f"{value:.17g}").astype("string")


def _with_identifiers(text: str, table: pd.DataFrame, identifiers: dict[str, str], quoted: bool) -> str:
    """Return `text` with a generated identifier for each column name that is quoted or not an identifier.

    `identifiers` maps each to its column. Quoted text that is an identifier is kept unless `quoted`: in a condition it
    is a value such as 'pile'.
    """
    columns = {str(name) for name in table.columns}

    def identifier_of(name: str) -> str:
        for known, column in identifiers.items():
            if column == name:
                return known
        identifiers[f"_column_{len(identifiers)}"] = name
        return f"_column_{len(identifiers) - 1}"

    def replace(match: re.Match[str]) -> str:
        name = next(group for group in match.groups() if group is not None)
        if match[0][0] == "`" or (name in columns and (quoted or not name.isidentifier())):
            return identifier_of(name)
        return match[0]

    text = _QUOTED.sub(replace, text)
    odd = [name for name in columns if not name.isidentifier() or keyword.iskeyword(name)]
    for name in sorted(odd, key=len, reverse=True):
        if not name.strip() or name not in text:
            continue
        parts = re.findall(r"[A-Za-z_]\w*", name)
        if parts and not all(part in columns for part in parts):
            pieces = re.split(r"""('[^']*'|"[^"]*")""", text)
            whole = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w.])")
            here = identifier_of(name)
            text = "".join(p if i % 2 else whole.sub(here, p) for i, p in enumerate(pieces))
    return text
