"""Concepts: parts of a layer's features that have a meaning, where they are and what they do.

`dff` and `craft` find them in images, `tcav` tests those that a user shows in images.
"""

from __future__ import annotations

from torchsaliency.concepts.bank import ConceptBank, ConceptNetwork, craft, total_indices
from torchsaliency.concepts.factorisation import (
    Factorisation,
    dff,
    factorise_features,
    find_shares,
)
from torchsaliency.concepts.vectors import ConceptTest, compare_with_chance, tcav

__all__ = [
    "ConceptBank",
    "ConceptNetwork",
    "ConceptTest",
    "Factorisation",
    "compare_with_chance",
    "craft",
    "dff",
    "factorise_features",
    "find_shares",
    "tcav",
    "total_indices",
]
