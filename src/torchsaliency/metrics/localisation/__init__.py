"""Is the map where the object is? Metrics on boxes (Opti-CAM, Appendix B) and on masks."""

from torchsaliency.metrics.localisation.boxes import box_iou, predicted_boxes

# importing registers: here in the order of the paper's table, in which metrics are listed
# isort: off
from torchsaliency.metrics.localisation.predicted import (
    LocalisationError,
    OfficialMetric,
    localisation_error,
    official_metric,
)
from torchsaliency.metrics.localisation.pixels import (
    PixelF1,
    PixelPrecision,
    PixelRecall,
    PixelScores,
    pixel_scores,
)
from torchsaliency.metrics.localisation.accuracy import (
    MaxBoxAccuracy,
    box_hits,
    max_box_accuracy,
)
from torchsaliency.metrics.localisation.pointing import (
    EnergyPointingGame,
    PointingGame,
    energy_pointing_game,
    pointing_game,
)
from torchsaliency.metrics.localisation.crop import SaliencyCropMetric, saliency_metric
from torchsaliency.metrics.localisation.grids import (
    Focus,
    GridPointingGame,
    focus,
    grid_pointing_game,
)
from torchsaliency.metrics.localisation.masks import (
    AreaUnderROC,
    AttributionLocalisation,
    RelevanceMassAccuracy,
    RelevanceRankAccuracy,
    TopKIntersection,
    area_under_roc,
    attribution_localisation,
    relevance_mass_accuracy,
    relevance_rank_accuracy,
    top_k_intersection,
)
# isort: on

__all__ = [
    "AreaUnderROC",
    "AttributionLocalisation",
    "EnergyPointingGame",
    "Focus",
    "GridPointingGame",
    "LocalisationError",
    "MaxBoxAccuracy",
    "OfficialMetric",
    "PixelF1",
    "PixelPrecision",
    "PixelRecall",
    "PixelScores",
    "PointingGame",
    "RelevanceMassAccuracy",
    "RelevanceRankAccuracy",
    "SaliencyCropMetric",
    "TopKIntersection",
    "area_under_roc",
    "attribution_localisation",
    "box_hits",
    "box_iou",
    "energy_pointing_game",
    "focus",
    "grid_pointing_game",
    "localisation_error",
    "max_box_accuracy",
    "official_metric",
    "pixel_scores",
    "pointing_game",
    "predicted_boxes",
    "relevance_mass_accuracy",
    "relevance_rank_accuracy",
    "saliency_metric",
    "top_k_intersection",
]
