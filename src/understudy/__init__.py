"""Understudy: model scheduling for masked diffusion language models.

A schedule such as `L125,H750,L125` says which model makes each denoising step. Names are imported when first used,
so that `import understudy` is light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.denoisers import Denoiser, FunctionDenoiser, load_denoiser, load_judge
    from understudy.errors import UnderstudyError
    from understudy.flops import FlopsReport
    from understudy.noise import NoiseSchedule
    from understudy.reveal import RevealPlan
    from understudy.sampling import SampleResult, SamplingTask, StepRecord, decode, sample, sample_plain, sample_steps
    from understudy.schedule import ModelSchedule, Segment
    from understudy.tokenizer_files import load_tokenizer

__version__ = "0.1.0"

_HOMES = {
    "Denoiser": "denoisers",
    "FlopsReport": "flops",
    "FunctionDenoiser": "denoisers",
    "ModelSchedule": "schedule",
    "NoiseSchedule": "noise",
    "RevealPlan": "reveal",
    "SampleResult": "sampling",
    "SamplingTask": "sampling",
    "Segment": "schedule",
    "StepRecord": "sampling",
    "UnderstudyError": "errors",
    "decode": "sampling",
    "load_denoiser": "denoisers",
    "load_judge": "denoisers",
    "load_tokenizer": "tokenizer_files",
    "sample": "sampling",
    "sample_plain": "sampling",
    "sample_steps": "sampling",
}

__all__ = [
    "Denoiser",
    "FlopsReport",
    "FunctionDenoiser",
    "ModelSchedule",
    "NoiseSchedule",
    "RevealPlan",
    "SampleResult",
    "SamplingTask",
    "Segment",
    "StepRecord",
    "UnderstudyError",
    "decode",
    "load_denoiser",
    "load_judge",
    "load_tokenizer",
    "sample",
    "sample_plain",
    "sample_steps",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'understudy' has no attribute {name!r}")
    return getattr(import_module(f"understudy.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
