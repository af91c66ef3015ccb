"""Measures: everything in evaluation that runs a network. Metrics make numbers of the results."""

from torchsaliency.measures.axioms import (
    AttributionSums,
    ShiftedMaps,
    attribution_sums,
    shifted_maps,
)
from torchsaliency.measures.embeddings import MaskedEmbeddings, masked_embeddings
from torchsaliency.measures.grids import GridMaps, grid_maps
from torchsaliency.measures.information import InformationCurve, information_curve
from torchsaliency.measures.judge import ClassScores, Judge, Reading, class_scores, judging
from torchsaliency.measures.masked import CropScores, MaskedScores, crop_scores, masked_scores
from torchsaliency.measures.perturbation import (
    PerturbationCurve,
    RemovalCurves,
    perturbation_curve,
    removal_curves,
)
from torchsaliency.measures.randomised import network_stages, randomised_networks
from torchsaliency.measures.reexplained import (
    MaskedMaps,
    NoisyMaps,
    OtherClassMaps,
    RandomisedMaps,
    RandomNetworkMaps,
    SmoothRandomisedMaps,
    TranslatedMaps,
    masked_maps,
    noisy_maps,
    other_class_maps,
    random_network_maps,
    randomised_maps,
    smooth_randomised_maps,
    translated_maps,
)
from torchsaliency.measures.refinement import Refinement, refine_curves
from torchsaliency.measures.regions import (
    RegionCurve,
    SquareRemovals,
    region_curve,
    square_removals,
)
from torchsaliency.measures.removals import (
    GroupRemovals,
    GroupResamplings,
    SegmentCurve,
    SubsetRemovals,
    group_removals,
    group_resamplings,
    segment_curve,
    subset_removals,
)

__all__ = [
    "AttributionSums",
    "ClassScores",
    "CropScores",
    "GridMaps",
    "GroupRemovals",
    "GroupResamplings",
    "InformationCurve",
    "Judge",
    "MaskedEmbeddings",
    "MaskedMaps",
    "MaskedScores",
    "NoisyMaps",
    "OtherClassMaps",
    "PerturbationCurve",
    "RandomNetworkMaps",
    "RandomisedMaps",
    "Reading",
    "Refinement",
    "RegionCurve",
    "RemovalCurves",
    "SegmentCurve",
    "ShiftedMaps",
    "SmoothRandomisedMaps",
    "SquareRemovals",
    "SubsetRemovals",
    "TranslatedMaps",
    "attribution_sums",
    "class_scores",
    "crop_scores",
    "grid_maps",
    "group_removals",
    "group_resamplings",
    "information_curve",
    "judging",
    "masked_embeddings",
    "masked_maps",
    "masked_scores",
    "network_stages",
    "noisy_maps",
    "other_class_maps",
    "perturbation_curve",
    "random_network_maps",
    "randomised_maps",
    "randomised_networks",
    "refine_curves",
    "region_curve",
    "removal_curves",
    "segment_curve",
    "shifted_maps",
    "smooth_randomised_maps",
    "square_removals",
    "subset_removals",
    "translated_maps",
]
