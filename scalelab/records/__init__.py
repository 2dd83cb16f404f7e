"""Run records: schema, reading, writing, and the paper's data."""

from scalelab.records.paper import paper_records
from scalelab.records.read import RunTable, gather, load, read
from scalelab.records.table import Rejected

__all__ = ["Rejected", "RunTable", "gather", "load", "paper_records", "read"]
