"""Models that the engine can sample from: the `Denoiser` protocol and what implements it."""

from understudy.denoisers.exact import ExactDenoiser
from understudy.denoisers.function import FunctionDenoiser
from understudy.denoisers.loading import load_denoiser, load_judge
from understudy.denoisers.protocol import Denoiser, Positions

__all__ = ["Denoiser", "ExactDenoiser", "FunctionDenoiser", "Positions", "load_denoiser", "load_judge"]
