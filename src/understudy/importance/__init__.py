"""Which denoising steps matter: where the models differ, over time.

    held-out text, noised to t ─held_out─► cross-entropy, KL, agreement ─┐
    the reference's own trajectories ─trajectories─► path KL per step ───┴analysis─► Importance (a file)

Sedykh et al. 2026 (arXiv 2604.02340) look at loss and KL over time on held-out text. Path KL is the same question asked
where sampling really goes: ancestral steps factorise, so the divergence between the laws of the whole trajectory under
the reference and under a schedule is the sum of one term per step that another model makes.
"""

from understudy.importance.analysis import AnalysisProgress, AnalysisSettings, analyze
from understudy.importance.record import Curve, HeldOutCurves, Importance, PathDivergence

__all__ = [
    "AnalysisProgress",
    "AnalysisSettings",
    "Curve",
    "HeldOutCurves",
    "Importance",
    "PathDivergence",
    "analyze",
]
