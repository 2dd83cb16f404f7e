"""Tables, sentences and notes of every result, made once and rendered as text, for a terminal and as HTML.

Each module makes the reports of one kind of result. What a report is made of is in `blocks`.
"""

from scalelab.report.blocks import Line, Report, Table

__all__ = ["Line", "Report", "Table"]
