"""What every benchmark's JSON document begins with, and how it is delivered."""

import json
import shlex
import subprocess
import sys

from understudy.environment import describe_environment


def document(what, **content):
    """A document that says what was measured, by which command, of which commit, where and with which versions."""
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], capture_output=True, text=True, check=False
    )
    return {
        "what": what,
        "command": shlex.join(["python", *sys.argv]),
        "commit": shown.stdout.strip() or None,
        "environment": describe_environment(),
        **content,
    }


def write(content, output):
    """Write to `output` where one is given."""
    if output:
        output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def deliver(content, output):
    """Write to `output` where one is given; the last line of standard output is the document."""
    write(content, output)
    print(json.dumps(content, ensure_ascii=False))
