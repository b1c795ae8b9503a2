"""Understudy as a model of lm-evaluation-harness (the extra `harness`).

`python -m understudy.harness run --model understudy --model_args … --tasks …` is lm-eval's command with the model
`understudy` in it; in Python, importing `UnderstudyLM` from here registers it. Without lm-eval that is a SettingError;
`log_likelihood_bounds`, which it scores with, needs nothing but the models.
"""

from typing import Any

from understudy.harness.bound import Bound, Target, log_likelihood_bounds

__all__ = ["Bound", "Target", "log_likelihood_bounds"]


def __getattr__(name: str) -> Any:
    if name == "UnderstudyLM":
        from understudy.harness.model import UnderstudyLM

        return UnderstudyLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
