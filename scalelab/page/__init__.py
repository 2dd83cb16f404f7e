"""HTML pages in one file: the report and the explorer, with their scripts and styles inline."""

from scalelab.page.document import Section, document

__all__ = ["Section", "document"]
