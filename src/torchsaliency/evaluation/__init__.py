"""Evaluation: maps scored by measures and metrics, one batch or a whole data set, in tables."""

from torchsaliency.evaluation.formats import FORMATS, render
from torchsaliency.evaluation.plan import Choice, Plan, make_plan, read_plan
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.runner import Progress, Watch, evaluate, load_results
from torchsaliency.evaluation.scoring import Bench, score
from torchsaliency.evaluation.store import Store
from torchsaliency.evaluation.tables import Cell, Column, Line, Table
from torchsaliency.evaluation.tabulating import comparison, table

__all__ = [
    "FORMATS",
    "Bench",
    "Cell",
    "Choice",
    "Column",
    "Line",
    "Plan",
    "Progress",
    "Results",
    "Store",
    "Table",
    "Watch",
    "comparison",
    "evaluate",
    "load_results",
    "make_plan",
    "read_plan",
    "render",
    "score",
    "table",
]
