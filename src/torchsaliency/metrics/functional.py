"""Every metric as a pure function: per-image numbers from tensors, in the metric's unit."""

from torchsaliency.metrics.classification import (
    adcc,
    average_drop,
    average_gain,
    average_increase,
    coherency,
    complexity,
)
from torchsaliency.metrics.localisation import (
    box_hits,
    box_iou,
    energy_pointing_game,
    localisation_error,
    max_box_accuracy,
    official_metric,
    pixel_scores,
    pointing_game,
    predicted_boxes,
    saliency_metric,
)
from torchsaliency.metrics.perturbation import aopc, area_under_curve, road
from torchsaliency.metrics.robustness import infidelity, sensitivities
from torchsaliency.metrics.sanity import hog_similarity, rank_similarity, ssim_similarity
from torchsaliency.metrics.segmentation import iou_at
from torchsaliency.metrics.selfsupervised import embedding_cosine, embedding_mse
from torchsaliency.metrics.similarity import pearson, spearman, ssim
from torchsaliency.metrics.sparsity import effective_area, entropy, sparseness

__all__ = [
    "adcc",
    "aopc",
    "area_under_curve",
    "average_drop",
    "average_gain",
    "average_increase",
    "box_hits",
    "box_iou",
    "coherency",
    "complexity",
    "effective_area",
    "embedding_cosine",
    "embedding_mse",
    "energy_pointing_game",
    "entropy",
    "hog_similarity",
    "infidelity",
    "iou_at",
    "localisation_error",
    "max_box_accuracy",
    "official_metric",
    "pearson",
    "pixel_scores",
    "pointing_game",
    "predicted_boxes",
    "rank_similarity",
    "road",
    "saliency_metric",
    "sensitivities",
    "sparseness",
    "spearman",
    "ssim",
    "ssim_similarity",
]
