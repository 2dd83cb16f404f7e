"""Reports of all results: tables, sentences and notes, rendered as text, for terminals and as HTML.

Each module makes the reports of one kind of result; `blocks` defines their parts.
"""

from scalelab.reports.blocks import Line, Report, Table

__all__ = ["Line", "Report", "Table"]
