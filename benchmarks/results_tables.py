"""What the scripts that fill the docs share: the files under results/, and tables in Markdown."""

import json
from functools import cache
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "results"


@cache
def read(name):
    """A results file."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def table(head, rows):
    """Markdown; the first column reads from the left, the others from the right."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---", *["---:"] * (len(head) - 1)], *rows))
