"""Score samples with a judge, and compare schedules under the same noise."""

from understudy.evaluation.comparison import Comparison, ScheduleEvaluation, SeedScores
from understudy.evaluation.document import FORMAT, read_evaluation, write_evaluation
from understudy.evaluation.frontier import frontier_difference
from understudy.evaluation.judging import Judge, Protocol, Reading, check_vocabulary, reading_of
from understudy.evaluation.prefixes import prefix_template, text_prefixes, validation_prefixes
from understudy.evaluation.processes import Processes, compare_on_all
from understudy.evaluation.references import ReferenceText
from understudy.evaluation.rivals import fewer_steps
from understudy.evaluation.running import compare_schedules, run_comparison
from understudy.evaluation.scores import SampleScores, Scoring, judge_samples, score_tokens
from understudy.evaluation.tasks import ComparisonProgress, ComparisonTask

__all__ = [
    "FORMAT",
    "Comparison",
    "ComparisonProgress",
    "ComparisonTask",
    "Judge",
    "Processes",
    "Protocol",
    "Reading",
    "ReferenceText",
    "SampleScores",
    "ScheduleEvaluation",
    "Scoring",
    "SeedScores",
    "check_vocabulary",
    "compare_on_all",
    "compare_schedules",
    "fewer_steps",
    "frontier_difference",
    "judge_samples",
    "prefix_template",
    "read_evaluation",
    "reading_of",
    "run_comparison",
    "score_tokens",
    "text_prefixes",
    "validation_prefixes",
    "write_evaluation",
]
