"""All measures of pictures and energies under one name: arrays in, numbers out."""

from bridge_ebm.definition import (
    Definition,
    RealRange,
    blends_decidable,
    definition,
    in_range,
    is_sharp,
    real_range,
)
from bridge_ebm.novelty import (
    NOVEL,
    Novelty,
    Reference,
    distinct,
    mismatch,
    novelty,
    pairwise_mismatch,
    paper_reference,
    reference,
)

__all__ = [
    "NOVEL",
    "Definition",
    "Novelty",
    "RealRange",
    "Reference",
    "blends_decidable",
    "definition",
    "distinct",
    "in_range",
    "is_sharp",
    "mismatch",
    "novelty",
    "pairwise_mismatch",
    "paper_reference",
    "real_range",
    "reference",
]
