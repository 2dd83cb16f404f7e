"""Groups of comparable runs in whatever holds them: a table, a file, a folder or records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scalelab.errors import UsageError
from scalelab.file_names import slug

if TYPE_CHECKING:
    from scalelab.fit.groups import Group
    from scalelab.laws import Law


def groups_of(
    data: Any,
    columns: Mapping[str, str] | None,
    where: str | None,
    by: str | Sequence[str] | None = None,
    by_tokens: bool = True,
    points: str = "auto",
    by_loops: bool = True,
) -> list[Group]:
    """Return the groups of comparable runs in `data`."""
    from scalelab.api.fitting import read
    from scalelab.fit.groups import Group, check_points, choose_points, group_records, points_of
    from scalelab.records import RunTable

    which = check_points(points)
    if isinstance(data, Group):
        return [data]
    names = [by] if isinstance(by, str) else list(by or ())
    asked, own = ({}, {}) if isinstance(data, RunTable) else _columns_to_group_by(names, columns or {})
    try:
        table = read(data, {**asked, **(columns or {})} or None, where)
    except UsageError as error:
        if error.argument == "columns" and set(error.value.values()) & {*own.values()}:  # a column that only `by` names
            raise UsageError(error.reason, argument="by") from None
        raise
    if by is None:
        return group_records(table, by_tokens, which, by_loops)
    records, counts = choose_points(table.records.rename(columns=own), by_tokens, which)
    for name in names:
        if name not in records:
            filled = ", ".join(str(column) for column in records if records[column].notna().any())
            raise UsageError(f"no column {name!r}; choose from {filled}", argument="by")
        if records[name].isna().all():
            reason = f"column {name!r} is empty; map a column of the table to it with `columns`"
            raise UsageError(reason, argument="by")
    if not names:
        rows = records.reset_index(drop=True)
        return [Group("all runs", "all-runs", rows, table.unfinished, points_of(rows, counts), table.columns)]
    made: dict[str, Group] = {}
    for key, rows in records.groupby(names, dropna=False, sort=True):
        words = [str(part) for part in key]
        title = ", ".join(f"{name} {word}" for name, word in zip(names, words, strict=True))
        stem, rows = slug("-".join(words), made), rows.reset_index(drop=True)
        made[stem] = Group(title, stem, rows, points=points_of(rows, counts), columns=table.columns)
    return list(made.values())


def groups_for(
    law: Law,
    data: Any,
    columns: Mapping[str, str] | None,
    where: str | None,
    by: str | Sequence[str] | None = None,
    points: str = "auto",
) -> list[Group]:
    """Return the groups in which to fit `law`: only what it depends on varies within them."""
    return groups_of(data, columns, where, by, "D" not in law.variables, points, "R" not in law.variables)


def one_group(groups: Sequence[Group], source: str = "", argument: str = "where") -> Group:
    """Return the only group.

    Raises:
        UsageError: There are several; the message lists them.
    """
    if len(groups) == 1:
        return groups[0]
    listed = "; ".join(group.title for group in groups[:6]) + ("; …" if len(groups) > 6 else "")
    head = f"{source}: " if source else ""
    raise UsageError(f"{head}{len(groups)} groups of comparable runs ({listed}): choose one with `{argument}`")


def _columns_to_group_by(names: Sequence[str], columns: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the mapping that keeps the columns `names`, and what to rename once they are read.

    Columns that a record does not have are read in place of descriptions that are not mapped.
    """
    from scalelab.records.schema import COLUMN_NAMES, ONLY_MAPPED

    asked = {name: name for name in names if name in ONLY_MAPPED}
    free = [field for field in ("corpus", "tokenizer", "setup") if field not in {*asked, *columns}]
    own = dict(zip(free, [name for name in names if name not in COLUMN_NAMES], strict=False))
    return asked | own, own
