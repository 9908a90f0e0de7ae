"""`report.html`: one page with everything in it, readable from disk and without a network."""

from peftbench.report.page.writing import write_page

__all__ = ["write_page"]
