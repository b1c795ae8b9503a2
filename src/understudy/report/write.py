"""A comparison on disk: numbers, samples, picture and page. All is made before the first file is written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.environment import describe_environment
from understudy.evaluation import FORMAT, Comparison, ScheduleEvaluation
from understudy.report.canvas import can_draw
from understudy.report.comparison_figure import render_comparison
from understudy.report.comparison_page import render_page
from understudy.saved_samples import sample_text, written_by
from understudy.whole_files import make_folder, write_bytes, write_together

NUMBERS, PICTURE, PAGE = "comparison.json", "comparison.png", "samples.html"
DECODING = ("decoding", "block_length", "threshold", "pace")  # settings that say which rule drew the samples


def draw_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draw quality against cost, and each schedule's steps by model, as a PNG.

    SettingError where matplotlib, the extra `plot`, is not installed; DataError when the disk refuses.
    """
    picture, target = render_comparison(comparison), Path(path)
    make_folder(target.parent)
    write_bytes(target, picture)


def write_comparison(
    comparison: Comparison,
    folder: str | Path,
    *,
    tokenizer: Any,
    command: str | None = None,
    drawn: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a comparison to a folder, made if need be, and give the paths.

    comparison.json: all numbers, per sample too, with settings, versions and hardware. samples-NAME.jsonl: one object
    per sample (`index`, `text`, `token_ids`, `written_by`: a key per token, "." where given, and how it was drawn), as
    `understudy sample --output` writes it and `read_samples` reads it.
    comparison.png: the picture, left out where matplotlib is not installed (`can_draw`). samples.html: the page.
    command: how it was made, for the record. drawn: more of how samples were drawn than the
    comparison says, such as the paths of `models` and the `noise`, for each line. DataError when the disk refuses.
    """
    target, environment = Path(folder), describe_environment()
    picture = render_comparison(comparison) if can_draw() else None
    record = {"format": FORMAT, "command": command, "environment": environment, **comparison.to_dict(per_sample=True)}
    page = render_page(comparison, tokenizer, picture=picture, environment=_recorded(command, environment))
    more = dict(drawn or {})
    files = {
        f"samples-{_slug(index, entry)}.jsonl": _sample_lines(entry, tokenizer, _drawn(comparison, entry) | more)
        for index, entry in enumerate(comparison.entries)
    }
    files |= {NUMBERS: (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode(), PAGE: page.encode()}
    files |= {} if picture is None else {PICTURE: picture}
    contents = {target / name: content for name, content in files.items()}
    make_folder(target)
    write_together(contents)
    return list(contents)


def _recorded(command: str | None, environment: Mapping[str, Any]) -> dict[str, Any]:
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    facts = {name: value for name, value in environment.items() if name != "versions" and value is not None}
    return {**({} if command is None else {"command": command}), "versions": versions, **facts}


def _slug(index: int, entry: ScheduleEvaluation) -> str:
    """A file name of the entry's own: its label where that is plain, numbered so that none meet."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in entry.label)
    return f"{index}-{'-'.join(part for part in plain.split('-') if part)[:60]}"


def _drawn(comparison: Comparison, entry: ScheduleEvaluation) -> dict[str, Any]:
    """How the samples of an entry were drawn, under the names that a file of samples has them."""
    asked = comparison.settings
    noise = {} if asked.get("noise") is None else {"noise": asked["noise"]}
    heat = {"temperature": entry.temperature, "top_p": asked.get("top_p", 1.0)}
    rule = {"decoding": "ancestral"} | {name: asked[name] for name in DECODING if asked.get(name) is not None}
    return {"schedule": str(entry.result.schedule), **heat, **rule, **noise}


def _sample_lines(entry: ScheduleEvaluation, tokenizer: Any, drawn: Mapping[str, Any]) -> bytes:
    lines = []
    seeds = [own.seed for own in entry.by_seed for _ in range(own.num_samples)]
    rows = zip(entry.result.tokens.tolist(), entry.result.written_by().tolist(), strict=True)
    for index, (ids, keys) in enumerate(rows):
        text = sample_text(tokenizer, ids)
        row = {"index": index, "text": text, "token_ids": ids, "written_by": written_by(keys), **drawn}
        row |= {"seed": seeds[index]} if len(seeds) == len(entry.result.tokens) else {}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines).encode()
