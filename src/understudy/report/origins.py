"""How figures were made, in words: file, command, settings, hardware and versions, as far as the file says."""

from collections.abc import Callable, Mapping
from typing import Any

from understudy.report.blocks import Block, Origin, Picture
from understudy.report.canvas import can_draw

_COUNTS = {
    "cpu_count": ("core", "cores"),
    "torch_threads": ("thread", "threads"),
    "processes": ("process", "processes"),
}


def origin_of(
    file: str, command: Any, settings: Mapping[str, Any], environment: Mapping[str, Any], **facts: Any
) -> Origin:
    """Put together where figures are from. facts: others to be told beside the settings."""
    told = {
        **{name.replace("_", " "): listed(value) for name, value in facts.items()},
        "settings": listed(settings),
        "hardware": hardware(environment),
        "versions": listed(environment.get("versions") or {}),
        "made": str(environment.get("date") or ""),
    }
    missing = [name for name in ("hardware", "versions") if not told[name]]
    told = {name: text for name, text in told.items() if text}
    if missing:
        told["not in the file"] = " and ".join(missing)
    return Origin(file, None if command is None else str(command), told)


def hardware(environment: Mapping[str, Any]) -> str:
    """Device, processor and how much of it, in a line; empty where nothing is known."""
    parts = [environment.get("cuda_device"), environment.get("processor")]
    for name, (one, several) in _COUNTS.items():
        if (count := environment.get(name)) is not None:
            parts.append(f"{count} {one if count == 1 else several}")
    parts += [environment.get("platform")]
    return ", ".join(str(part) for part in parts if part)


def listed(value: Any) -> str:
    """Values of JSON in a line, without those that are null."""
    if isinstance(value, Mapping):
        shown = {str(name).replace("_", " "): listed(part) for name, part in value.items() if part is not None}
        return "; ".join(f"{name} {text}" for name, text in shown.items() if text)
    if isinstance(value, list | tuple):
        return ", ".join(listed(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def judged_by(name: str, context_length: int | None, protocol: str | None = None) -> str:
    """The judge in words."""
    context = "" if context_length is None else f" (context {context_length})"
    return f"judge {name}{context}" + ("" if protocol is None else f", protocol {protocol}")


def picture(name: str, render: Callable[[], bytes], alt: str, caption: str) -> tuple[Block, ...]:
    """One picture, and none where matplotlib is not installed."""
    return (Picture(name, render(), alt, caption),) if can_draw() else ()
