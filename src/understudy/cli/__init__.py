"""The command. One file per verb; nothing here that a notebook user lacks."""

import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import typer

from understudy import __version__
from understudy.cli.analyze import analyze_command
from understudy.cli.bench import bench_command
from understudy.cli.convert import convert_command
from understudy.cli.demo import demo_command
from understudy.cli.evaluate import evaluate_command
from understudy.cli.flops import flops_command
from understudy.cli.make_light import make_light_command
from understudy.cli.plan import plan_command
from understudy.cli.prepare import prepare_command
from understudy.cli.ray_options import complete_ray
from understudy.cli.report import report_command
from understudy.cli.sample import sample_command
from understudy.cli.search import search_command
from understudy.cli.serve import serve_command
from understudy.cli.train import train_command
from understudy.errors import UnderstudyError

app = typer.Typer(
    name="understudy",
    help="Let a light masked diffusion language model stand in for the heavy one where the difference does not matter.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo_command,
    "sample": sample_command,
    "evaluate": evaluate_command,
    "analyze": analyze_command,
    "flops": flops_command,
    "bench": bench_command,
    "plan": plan_command,
    "search": search_command,
    "report": report_command,
    "serve": serve_command,
    "convert": convert_command,
    "prepare": prepare_command,
    "train": train_command,
    "make-light": make_light_command,
}
for verb, command in COMMANDS.items():
    app.command(verb)(command)

# Newer typer carries its own copy of click; click's base class of errors is reached through a name typer exports.
ClickException: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    """Let a light masked diffusion language model stand in for the heavy one where the difference does not matter."""
    if version:
        typer.echo(f"understudy {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and leave with its status.

    0: done. 1: the machine refused (disk, memory, a closed pipe). 2: something the user can mend. 130: interrupted.
    What went wrong is one line on standard error; a traceback is left to errors of our own.
    """
    _set_up_streams()
    try:
        status = _run(sys.argv[1:])
        print(end="", flush=True)  # now, while a closed pipe can still be answered
    except (KeyboardInterrupt, typer.Abort) as interrupt:
        _fail("; ".join(["interrupted", *filter(None, map(str, interrupt.args))]), 130)  # what is kept, if something
    except UnderstudyError as error:
        _fail(str(error), 2)
    except ClickException as error:
        _fail(_explain_usage(error), 2)
    except BrokenPipeError:
        _leave_pipe()
    except OSError as error:
        _fail(str(error), 1)
    except ModuleNotFoundError as error:
        _fail_without_package(error)
    except (MemoryError, RuntimeError) as error:
        _fail_if_out_of_memory(error)
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    # Not through the application's own main: that answers an interrupt and a closed pipe itself, and says nothing.
    command: Any = typer.main.get_command(app)
    try:
        with command.make_context("understudy", complete_ray(arguments)) as context:
            command.invoke(context)
    except typer.Exit as leave:
        return int(leave.exit_code)
    return 0


def _set_up_streams() -> None:
    # Libraries that talk on standard error would break the promise of one line; who wants to hear them sets these.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Files and pipes get UTF-8, as JSON must be; what a terminal cannot show becomes an escape.
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")


def _fail(message: str, status: int) -> NoReturn:
    line = " ".join(message.split())
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    print(f"understudy: {shown}", file=sys.stderr)
    sys.exit(status)


def _explain_usage(error: Exception) -> str:
    """Say what was wrong with the options, what was given, and where to read on."""
    message = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
    given = _given_to(getattr(getattr(error, "param", None), "opts", ()))
    repeated = f" (given: {given!r})" if given is not None and repr(given) not in message else ""
    verb = next((word for word in sys.argv[1:2] if word in COMMANDS), "")
    return f"{message}{repeated}; see {' '.join(['understudy', verb]).strip()} --help"


def _given_to(options: Sequence[str]) -> str | None:
    """Find the word that one of `options` was given on the command line; of several the last, which counts."""
    found = None
    for word, following in zip(sys.argv, [*sys.argv[1:], None], strict=True):
        name, separator, value = word.partition("=")
        if name in options:
            found = value if separator else following
    return found


def _leave_pipe() -> NoReturn:
    # The interpreter flushes once more on its way out; without this it would report the same error again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _fail_without_package(error: ModuleNotFoundError) -> NoReturn:
    name = (error.name or "").partition(".")[0]
    if name in ("", "understudy"):
        raise error
    _fail(f"the package {name} is not installed; get everything with: pip install 'understudy[all]'", 1)


def _fail_if_out_of_memory(error: MemoryError | RuntimeError) -> NoReturn:
    # By name, since torch is not imported for the sake of its errors; on the CPU it raises a plain RuntimeError.
    is_named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not is_named and "can't allocate memory" not in str(error):
        raise error
    size = re.search(r"allocate (\d+(?:\.\d+)?)\.?\s?(\w+)", str(error))
    wanted = f" ({size[1]} {size[2]} more were needed)" if size else ""
    _fail(f"out of memory{wanted}; take a smaller --batch-size, --length or --num-samples", 1)
