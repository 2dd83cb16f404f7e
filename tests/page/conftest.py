"""A real browser for the tests of pages."""

from tests.support.browser import chromium, open_page

__all__ = ["chromium", "open_page"]
