"""Results as tables and charts, in every format that a paper, a terminal or a browser takes."""

from torchsaliency.errors import require_extra

require_extra("eval", "pandas")

from torchsaliency.report import terminal, writers  # noqa: F401 (they register their formats)
from torchsaliency.report.formats import FORMATS, render
from torchsaliency.report.results import comparison, table, tabulate_runs
from torchsaliency.report.tables import Column, Table

__all__ = ["FORMATS", "Column", "Table", "comparison", "render", "table", "tabulate_runs"]
