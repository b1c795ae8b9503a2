"""Load the service with locust, with continuous batching and for one request at a time, by turns.

A check on `benchmarks/serving.py` by a tool that others made, with the clients of `benchmarks/locustfile.py`. Locust
shares no dependency with the package, so it gets an environment of its own:

    python -m venv locust-environment && locust-environment/bin/pip install locust
    PATH=$PATH:locust-environment/bin python benchmarks/load.py --output results/serving-locust-cpu.json
"""

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
from documents import deliver, document

from serving import MODES, QUEUE, counted, resident, service

RUNS = ("done", "cancelled", "failed")


async def measure(settings, folder):
    """Two turns for each mode; memory before, between and after them; what the services counted."""
    async with AsyncExitStack() as stack:
        services = {mode: await stack.enter_async_context(service(options + QUEUE)) for mode, options in MODES.items()}
        turns, memory = {mode: [] for mode in MODES}, {mode: [resident(services[mode][1])] for mode in MODES}
        for mode, (client, process) in [*services.items()] * 2:
            turns[mode].append(await asyncio.to_thread(turn, settings, str(client.base_url), folder))
            memory[mode].append(resident(process))
        after = {mode: await counted(client) for mode, (client, _) in services.items()}
    return {mode: summary(turns[mode], memory[mode], after[mode]) for mode in MODES}


def turn(settings, address, folder):
    """Rows of one run of locust, which must end without failures. All runs share the texts that came first."""
    command = ["locust", "-f", Path(__file__).with_name("locustfile.py"), "--headless", "--host", address]
    command += ["-u", str(settings.users), "-r", str(settings.users), "-t", f"{settings.seconds}s"]
    command += ["--stop-timeout", "300", "--only-summary", "--json-file", folder / "rows"]
    subprocess.run(command, env={**os.environ, "FIRST_ANSWERS": str(folder / "texts.json")}, check=True)
    return json.loads((folder / "rows.json").read_text(encoding="utf-8"))


def summary(turns, memory, after):
    """Both turns of a mode together. Locust keeps milliseconds, to two digits."""
    counts, times, seconds = Counter(), Counter(), 0
    for rows in turns:
        seconds += max(row["last_request_timestamp"] for row in rows) - min(row["start_time"] for row in rows)
        for row in rows:
            counts.update({row["name"]: row["num_requests"], "failures": row["num_failures"]})
            times.update(row["response_times"] if row["name"] != "vanished" else {})
    latencies = np.repeat([float(time) / 1000 for time in times], list(times.values()))
    return {
        **counts,
        "requests_per_second": round(len(latencies) / seconds, 2),
        "latency_seconds": {f"p{share}": round(float(np.percentile(latencies, share)), 2) for share in (50, 95, 99)},
        "runs": {state: int(after.get(f'understudy_runs_total{{state="{state}"}}', 0)) for state in RUNS},
        "resident_mib": dict(zip(("beginning", "middle", "end"), memory, strict=True)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=40, help="of each turn; each mode has two")
    parser.add_argument("--remark", help="what else the machine did")
    parser.add_argument("--output", type=Path)
    settings = parser.parse_args()
    tool = subprocess.run(["locust", "--version"], capture_output=True, text=True, check=True).stdout.split(" from")[0]
    with tempfile.TemporaryDirectory() as scratch:
        modes = asyncio.run(measure(settings, Path(scratch)))
    given = {name: getattr(settings, name) for name in ("users", "seconds", "remark")}
    deliver(document("the service under locust", tool=tool, settings=given, modes=modes), settings.output)
