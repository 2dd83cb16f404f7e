"""Run records: schema, reading, writing, and the paper's data."""

from scalelab.records.paper import paper_records
from scalelab.records.read import Table, gather, load, read
from scalelab.records.table import Rejected

__all__ = ["Rejected", "Table", "gather", "load", "paper_records", "read"]
