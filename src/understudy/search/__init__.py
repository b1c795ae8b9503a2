"""Search for the best schedule by sampling all of them: the check on what planning predicts.

    SearchSpace ─┐
    plan, others ┴► candidates ─► units: a schedule on some samples ─measure─► journal ─► ranks, ties, correlations
                                        ▲                                        │
                                        └── halving: who is sampled further ◄────┘

Sedykh et al. 2026 (arXiv 2604.02340) search over coarse segments of steps. All schedules share a seed, so each sample
of one is paired with that of another, and far fewer tell them apart.
"""

from understudy.search.correlation import RankCorrelation, kendall, spearman
from understudy.search.halving import Drop, drop_behind, round_sizes
from understudy.search.measuring import Unit
from understudy.search.result import Correlations, PlannerRank, SearchEntry, SearchResult
from understudy.search.run import SearchProgress, search_schedules
from understudy.search.settings import SearchSettings
from understudy.search.space import MAX_SCHEDULES, SearchSpace

load = SearchResult.load

__all__ = [
    "MAX_SCHEDULES",
    "Correlations",
    "Drop",
    "PlannerRank",
    "RankCorrelation",
    "SearchEntry",
    "SearchProgress",
    "SearchResult",
    "SearchSettings",
    "SearchSpace",
    "Unit",
    "drop_behind",
    "kendall",
    "load",
    "round_sizes",
    "search_schedules",
    "spearman",
]
