"""Results as tables and charts, in every format that a paper, a terminal or a browser takes."""

from torchsaliency.errors import require_extra

require_extra("eval", "pandas", "jinja2")

from torchsaliency.report.formats import FORMATS, render
from torchsaliency.report.results import comparison, table
from torchsaliency.report.tables import Cell, Column, Line, Table

__all__ = ["FORMATS", "Cell", "Column", "Line", "Table", "comparison", "render", "table"]
