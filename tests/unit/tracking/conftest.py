"""Nothing is reported to anyone: set before the libraries are imported."""

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
os.environ["WANDB_ERROR_REPORTING"] = "false"
