"""Fine-tuning, as Opti-CAM's appendix E.2 does it for medical images: the head, then everything.

A new classifier is trained on the frozen network, then the whole network at a low rate; stochastic
gradient descent with momentum throughout. In the first stage the backbone is in evaluation mode:
its batch normalisation uses the statistics that came with its weights and does not move them, and
it drops nothing out, so the head learns on the features that the frozen network will keep having.
In training mode the statistics would drift to the new images under weights that cannot follow, and
"frozen" would be untrue. The second stage trains all of it, statistics included.

Each epoch's order, flips and dropout are drawn anew from the seed and the epoch's number, on any
device, so that a checkpoint's number of epochs is the whole state of all generators.
"""

from torchsaliency.training.data import Parts, divide, open_parts
from torchsaliency.training.loop import CHECKPOINT, REPORT, TEST_LIST, WEIGHTS, finetune
from torchsaliency.training.report import (
    Accuracy,
    Epoch,
    LabelAccuracy,
    TrainingProgress,
    TrainingReport,
    Watch,
)
from torchsaliency.training.settings import Finetuning, make_finetuning

__all__ = [
    "CHECKPOINT",
    "REPORT",
    "TEST_LIST",
    "WEIGHTS",
    "Accuracy",
    "Epoch",
    "Finetuning",
    "LabelAccuracy",
    "Parts",
    "TrainingProgress",
    "TrainingReport",
    "Watch",
    "divide",
    "finetune",
    "make_finetuning",
    "open_parts",
]
