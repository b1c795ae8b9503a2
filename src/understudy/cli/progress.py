"""Progress where there is no terminal to draw bars on: plain lines, in logs and pipes alike."""

from rich.console import Console


def print_plainly(console: Console, line: str) -> None:
    """Print one line as it is: no colours, no wrapping, no markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
