"""Where the units of an evaluation are computed: in this process, in several, or on a cluster."""

from torchsaliency.evaluation.engines import local as local
from torchsaliency.evaluation.engines import processes as processes
from torchsaliency.evaluation.engines import ray as ray
from torchsaliency.evaluation.engines import torchrun as torchrun
from torchsaliency.evaluation.engines.engine import (
    RUN_ENGINES,
    Job,
    RunEngine,
    make_run_engine,
    register_run_engine,
    tells_results,
)

__all__ = [
    "RUN_ENGINES",
    "Job",
    "RunEngine",
    "make_run_engine",
    "register_run_engine",
    "tells_results",
]
