"""Evaluation: maps scored by measures and metrics, one batch or a whole data set."""

from torchsaliency.errors import require_extra
from torchsaliency.registry import make_moved_getattr

require_extra("eval", "pandas", "pyarrow", "torchmetrics")

from torchsaliency.evaluation.agreement import Consensus, consensus
from torchsaliency.evaluation.bench import Bench
from torchsaliency.evaluation.callbacks import Callback, ExplainedImage, Progress, Watch
from torchsaliency.evaluation.choosing import recommend
from torchsaliency.evaluation.compaction import Compaction, compact
from torchsaliency.evaluation.comparing import RunComparison, compare_runs
from torchsaliency.evaluation.plan import Plan, make_plan, read_plan
from torchsaliency.evaluation.results import Results
from torchsaliency.evaluation.runner import compute_rows, evaluate, load_results
from torchsaliency.evaluation.scoring import score
from torchsaliency.evaluation.store import Store
from torchsaliency.evaluation.verdicts import Recommendation
from torchsaliency.options import Choice

__getattr__ = make_moved_getattr(__name__)

__all__ = [
    "Bench",
    "Callback",
    "Choice",
    "Compaction",
    "Consensus",
    "ExplainedImage",
    "Plan",
    "Progress",
    "Recommendation",
    "Results",
    "RunComparison",
    "Store",
    "Watch",
    "compact",
    "compare_runs",
    "compute_rows",
    "consensus",
    "evaluate",
    "load_results",
    "make_plan",
    "read_plan",
    "recommend",
    "score",
]
