"""A light model for those who have none: chosen blocks of the heavy one, healed by distillation.

    held-out text ─measuring─► KL without each block ─choosing─► blocks to keep ─skipping─► pruned model ┐
                                        heavy model as teacher, the plan's light steps ─training─► light model

`make_light` drives it; its parts serve alone.
"""

from understudy.lightening.choosing import Choice, Round, choose_blocks
from understudy.lightening.light_times import light_intervals, read_schedule
from understudy.lightening.making import LightModel, LightProgress, make_light
from understudy.lightening.measuring import Divergences, Estimate, Weighing, measure
from understudy.lightening.settings import HEALING, LightSettings, healing_config
from understudy.lightening.skipping import hidden_states, keep_blocks, round_weights
from understudy.lightening.text import HeldOutText, held_out_text

__all__ = [
    "HEALING",
    "Choice",
    "Divergences",
    "Estimate",
    "HeldOutText",
    "LightModel",
    "LightProgress",
    "LightSettings",
    "Round",
    "Weighing",
    "choose_blocks",
    "healing_config",
    "held_out_text",
    "hidden_states",
    "keep_blocks",
    "light_intervals",
    "make_light",
    "measure",
    "read_schedule",
    "round_weights",
]
