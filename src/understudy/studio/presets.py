"""Schedules with a name, as the studio offers them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A schedule in percent, valid for any number of steps that leaves no segment empty, and why one would take it."""

    name: str
    schedule: str
    why: str

    def to_dict(self) -> dict[str, str]:
        """Plain values for JSON."""
        return {"name": self.name, "schedule": self.schedule, "why": self.why}


def presets(reference: str, others: tuple[str, ...]) -> tuple[Preset, ...]:
    """Give the presets for models under their keys: `reference` is the costliest, `others` in any order.

    With two models or more, the placements of a quarter of light steps are those of the last of `others`.
    """
    alone = Preset(f"{reference} only", f"{reference}100%", f"Every step by {reference}: what others are held against.")
    if not others:
        return (alone,)
    heavy, light = reference, others[-1]
    return (
        alone,
        Preset("Sandwich", f"{light}12.5%,{heavy}75%,{light}12.5%", f"A quarter by {light}, half of it at each end."),
        Preset("Light first", f"{light}25%,{heavy}75%", f"A quarter by {light}, while nearly all is masked."),
        Preset("Light last", f"{heavy}75%,{light}25%", f"A quarter by {light}, while little is masked."),
        Preset("Light middle", f"{heavy}37.5%,{light}25%,{heavy}37.5%", f"A quarter by {light}, half-way."),
        Preset(f"{light} only", f"{light}100%", f"Every step by {light}: the cheapest, and the furthest from {heavy}."),
    )
