"""Metrics: tensors in, numbers out. Each is a pure function and a `torchmetrics.Metric`."""

from torchsaliency.errors import require_extra

require_extra("eval", "torchmetrics")

from torchsaliency.metrics import functional as functional
from torchsaliency.metrics.base import (
    MetricEntry,
    SaliencyMetric,
    Summary,
    collection,
    create_metric,
    metric,
    metric_entry,
    metrics,
)
from torchsaliency.metrics.classification import (
    ADCC,
    AverageDrop,
    AverageGain,
    AverageIncrease,
    Coherency,
    Complexity,
)
from torchsaliency.metrics.localisation import (
    EnergyPointingGame,
    LocalisationError,
    MaxBoxAccuracy,
    OfficialMetric,
    PixelF1,
    PixelPrecision,
    PixelRecall,
    PixelScores,
    PointingGame,
    SaliencyCropMetric,
)
from torchsaliency.metrics.perturbation import AOPC, ROAD, Deletion, Insertion
from torchsaliency.metrics.robustness import AvgSensitivity, Infidelity, MaxSensitivity
from torchsaliency.metrics.sanity import (
    AbsoluteSpearmanSimilarity,
    HOGSimilarity,
    SpearmanSimilarity,
    SSIMSimilarity,
)
from torchsaliency.metrics.segmentation import MeanIoU, MeanIoUSweep
from torchsaliency.metrics.selfsupervised import EmbeddingCosine, EmbeddingMSE
from torchsaliency.metrics.sparsity import EffectiveArea, Entropy, Sparseness
from torchsaliency.metrics.statistics import (
    Agreement,
    Comparison,
    bootstrap,
    compare,
    rank_agreement,
)

__all__ = [
    "ADCC",
    "AOPC",
    "ROAD",
    "AbsoluteSpearmanSimilarity",
    "Agreement",
    "AverageDrop",
    "AverageGain",
    "AverageIncrease",
    "AvgSensitivity",
    "Coherency",
    "Comparison",
    "Complexity",
    "Deletion",
    "EffectiveArea",
    "EmbeddingCosine",
    "EmbeddingMSE",
    "EnergyPointingGame",
    "Entropy",
    "HOGSimilarity",
    "Infidelity",
    "Insertion",
    "LocalisationError",
    "MaxBoxAccuracy",
    "MaxSensitivity",
    "MeanIoU",
    "MeanIoUSweep",
    "MetricEntry",
    "OfficialMetric",
    "PixelF1",
    "PixelPrecision",
    "PixelRecall",
    "PixelScores",
    "PointingGame",
    "SSIMSimilarity",
    "SaliencyCropMetric",
    "SaliencyMetric",
    "Sparseness",
    "SpearmanSimilarity",
    "Summary",
    "bootstrap",
    "collection",
    "compare",
    "create_metric",
    "functional",
    "metric",
    "metric_entry",
    "metrics",
    "rank_agreement",
]
