"""Metrics: tensors in, numbers out. Each is a pure function and a `torchmetrics.Metric`."""

from torchsaliency.errors import require_extra

require_extra("eval", "torchmetrics")

from torchsaliency.metrics import functional as functional
from torchsaliency.metrics.axioms import Completeness, InputInvariance, NonSensitivity
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
    ARCC,
    AverageDrop,
    AverageGain,
    AverageIncrease,
    Coherency,
    Complexity,
)
from torchsaliency.metrics.compactness import TreeCompactness
from torchsaliency.metrics.consistency import (
    Consistency,
)
from torchsaliency.metrics.curves import (
    ABPC,
    IROF,
    Monotonicity,
    Selectivity,
)
from torchsaliency.metrics.faithfulness import (
    FaithfulnessCorrelation,
    FaithfulnessEstimate,
    MonotonicityCorrelation,
    SaCo,
    SensitivityN,
)
from torchsaliency.metrics.information import AccuracyInformation, SoftmaxInformation
from torchsaliency.metrics.localisation import (
    AreaUnderROC,
    AttributionLocalisation,
    EnergyPointingGame,
    Focus,
    GridPointingGame,
    LocalisationError,
    MaxBoxAccuracy,
    OfficialMetric,
    PixelF1,
    PixelPrecision,
    PixelRecall,
    PixelScores,
    PointingGame,
    RelevanceMassAccuracy,
    RelevanceRankAccuracy,
    SaliencyCropMetric,
    TopKIntersection,
)
from torchsaliency.metrics.perturbation import AOPC, ROAD, Deletion, Insertion
from torchsaliency.metrics.robustness import AvgSensitivity, Infidelity, MaxSensitivity
from torchsaliency.metrics.sanity import (
    MPRT,
    AbsoluteSpearmanSimilarity,
    EfficientMPRT,
    HOGSimilarity,
    RandomLogit,
    SmoothMPRT,
    SpearmanSimilarity,
    SSIMSimilarity,
)
from torchsaliency.metrics.segmentation import MeanIoU, MeanIoUSweep
from torchsaliency.metrics.selfsupervised import EmbeddingCosine, EmbeddingMSE
from torchsaliency.metrics.sparsity import (
    EffectiveArea,
    EffectiveComplexity,
    Entropy,
    Sparseness,
)
from torchsaliency.metrics.stability import (
    Continuity,
    LocalLipschitz,
    RelativeInputStability,
    RelativeOutputStability,
    RelativeRepresentationStability,
)
from torchsaliency.metrics.statistics import (
    Agreement,
    Comparison,
    bootstrap,
    compare,
    rank_agreement,
)
from torchsaliency.metrics.sufficiency import Sufficiency

__all__ = [
    "ABPC",
    "ADCC",
    "AOPC",
    "ARCC",
    "IROF",
    "MPRT",
    "ROAD",
    "AbsoluteSpearmanSimilarity",
    "AccuracyInformation",
    "Agreement",
    "AreaUnderROC",
    "AttributionLocalisation",
    "AverageDrop",
    "AverageGain",
    "AverageIncrease",
    "AvgSensitivity",
    "Coherency",
    "Comparison",
    "Completeness",
    "Complexity",
    "Consistency",
    "Continuity",
    "Deletion",
    "EffectiveArea",
    "EffectiveComplexity",
    "EfficientMPRT",
    "EmbeddingCosine",
    "EmbeddingMSE",
    "EnergyPointingGame",
    "Entropy",
    "FaithfulnessCorrelation",
    "FaithfulnessEstimate",
    "Focus",
    "GridPointingGame",
    "HOGSimilarity",
    "Infidelity",
    "InputInvariance",
    "Insertion",
    "LocalLipschitz",
    "LocalisationError",
    "MaxBoxAccuracy",
    "MaxSensitivity",
    "MeanIoU",
    "MeanIoUSweep",
    "MetricEntry",
    "Monotonicity",
    "MonotonicityCorrelation",
    "NonSensitivity",
    "OfficialMetric",
    "PixelF1",
    "PixelPrecision",
    "PixelRecall",
    "PixelScores",
    "PointingGame",
    "RandomLogit",
    "RelativeInputStability",
    "RelativeOutputStability",
    "RelativeRepresentationStability",
    "RelevanceMassAccuracy",
    "RelevanceRankAccuracy",
    "SSIMSimilarity",
    "SaCo",
    "SaliencyCropMetric",
    "SaliencyMetric",
    "Selectivity",
    "SensitivityN",
    "SmoothMPRT",
    "SoftmaxInformation",
    "Sparseness",
    "SpearmanSimilarity",
    "Sufficiency",
    "Summary",
    "TopKIntersection",
    "TreeCompactness",
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
