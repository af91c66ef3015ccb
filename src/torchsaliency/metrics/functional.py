"""Every metric as a pure function: per-image numbers from tensors, in the metric's unit."""

from torchsaliency.metrics.axioms import completeness, input_invariance, non_sensitivity
from torchsaliency.metrics.classification import (
    adcc,
    arcc,
    average_drop,
    average_gain,
    average_increase,
    coherency,
    complexity,
)
from torchsaliency.metrics.compactness import tree_compactness
from torchsaliency.metrics.consistency import (
    consistency,
    peak_cells,
)
from torchsaliency.metrics.curves import (
    abpc,
    irof,
    monotonicity,
    selectivity,
)
from torchsaliency.metrics.faithfulness import (
    faithfulness_correlation,
    faithfulness_estimate,
    monotonicity_correlation,
    saco,
    sensitivity_n,
)
from torchsaliency.metrics.information import accuracy_information, softmax_information
from torchsaliency.metrics.localisation import (
    area_under_roc,
    attribution_localisation,
    box_hits,
    box_iou,
    energy_pointing_game,
    focus,
    grid_pointing_game,
    localisation_error,
    max_box_accuracy,
    official_metric,
    pixel_scores,
    pointing_game,
    predicted_boxes,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
    saliency_metric,
    top_k_intersection,
)
from torchsaliency.metrics.perturbation import aopc, area_under_curve, road
from torchsaliency.metrics.robustness import infidelity, sensitivities
from torchsaliency.metrics.sanity import (
    complexity_rise,
    hog_similarity,
    mean_rank_similarity,
    rank_similarity,
    ssim_similarity,
)
from torchsaliency.metrics.segmentation import iou_at
from torchsaliency.metrics.selfsupervised import embedding_cosine, embedding_mse
from torchsaliency.metrics.similarity import pearson, spearman, ssim
from torchsaliency.metrics.sparsity import (
    effective_area,
    effective_complexity,
    entropy,
    sparseness,
)
from torchsaliency.metrics.stability import (
    continuity,
    local_lipschitz,
    relative_input_stability,
    relative_output_stability,
    relative_representation_stability,
    relative_stability,
)
from torchsaliency.metrics.sufficiency import sufficiency

__all__ = [
    "abpc",
    "accuracy_information",
    "adcc",
    "aopc",
    "arcc",
    "area_under_curve",
    "area_under_roc",
    "attribution_localisation",
    "average_drop",
    "average_gain",
    "average_increase",
    "box_hits",
    "box_iou",
    "coherency",
    "completeness",
    "complexity",
    "complexity_rise",
    "consistency",
    "continuity",
    "effective_area",
    "effective_complexity",
    "embedding_cosine",
    "embedding_mse",
    "energy_pointing_game",
    "entropy",
    "faithfulness_correlation",
    "faithfulness_estimate",
    "focus",
    "grid_pointing_game",
    "hog_similarity",
    "infidelity",
    "input_invariance",
    "iou_at",
    "irof",
    "local_lipschitz",
    "localisation_error",
    "max_box_accuracy",
    "mean_rank_similarity",
    "monotonicity",
    "monotonicity_correlation",
    "non_sensitivity",
    "official_metric",
    "peak_cells",
    "pearson",
    "pixel_scores",
    "pointing_game",
    "predicted_boxes",
    "rank_similarity",
    "relative_input_stability",
    "relative_output_stability",
    "relative_representation_stability",
    "relative_stability",
    "relevance_mass_accuracy",
    "relevance_rank_accuracy",
    "road",
    "saco",
    "saliency_metric",
    "selectivity",
    "sensitivities",
    "sensitivity_n",
    "softmax_information",
    "sparseness",
    "spearman",
    "ssim",
    "ssim_similarity",
    "sufficiency",
    "top_k_intersection",
    "tree_compactness",
]
