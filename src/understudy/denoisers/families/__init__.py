"""Kinds of checkpoint that `load_denoiser` knows, in the order in which they are asked."""

from understudy.denoisers.families.dit import TrainedHere
from understudy.denoisers.families.family import Family, ModelSource
from understudy.denoisers.families.masked_lm import MaskedLM
from understudy.denoisers.families.mdlm import PublishedMDLM
from understudy.denoisers.families.remote import RemoteModel

FAMILIES: tuple[Family, ...] = (TrainedHere(), PublishedMDLM(), RemoteModel(), MaskedLM())

__all__ = ["FAMILIES", "Family", "ModelSource"]
