"""The best schedule for a budget, from an analysis of where models differ.

    Importance ─costing─► PlanningProblem ─┬─solve─► Solution ─┐
    budget, limits ────────────────────────┘                    ├─► Plan (a file)
                                 PlanningProblem ─frontier──────┘

With P the law of trajectories under the reference and Q under a schedule, KL(P ‖ Q) is the sum, over the steps that
another model makes, of that step's divergence. So a schedule is chosen step by step, but for budget and limits.
"""

from understudy.planning.costing import Convention, planning_problem
from understudy.planning.frontier import FrontierPoint, frontier
from understudy.planning.plan import Certificate, Plan, Prediction
from understudy.planning.planner import Budget, make_plan
from understudy.planning.problem import ForcedSteps, Limits, PlanningProblem
from understudy.planning.solver import Solution, solve

__all__ = [
    "Budget",
    "Certificate",
    "Convention",
    "ForcedSteps",
    "FrontierPoint",
    "Limits",
    "Plan",
    "PlanningProblem",
    "Prediction",
    "Solution",
    "frontier",
    "make_plan",
    "planning_problem",
    "solve",
]
