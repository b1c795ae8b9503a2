"""Clients for locust: they ask for completions, whole or as a stream, and a quarter of them leave in the middle.

Run by `benchmarks/load.py`. Every text is held against the first answer to the same request, whole or streamed; another
text is a failure. The file that FIRST_ANSWERS names keeps the first answers for the next run.
"""

import json
import os
import random
import time
from pathlib import Path

from locust import HttpUser, events, task
from requests.exceptions import ReadTimeout

KEPT = Path(os.environ.get("FIRST_ANSWERS", os.devnull))
TEXTS = json.loads(KEPT.read_text(encoding="utf-8") or "{}") if KEPT.exists() else {}
FIXED = {"steps": 32, "schedule": "L12.5%,H75%,L12.5%", "ignore_eos": True}
REQUESTS = [{"prompt": ("The city", "A war")[k % 2], "length": 24 + k % 3 * 8, "seed": k, **FIXED} for k in range(24)]


@events.quitting.add_listener
def _keep(**_):
    KEPT.write_text(json.dumps(TEXTS), encoding="utf-8")


def ask(user, name, stream, **options):
    """One of the requests, and its answer: under a name in the report, as a context to judge it in."""
    body = {**random.choice(REQUESTS), "stream": stream}
    options |= {"json": body, "stream": stream, "catch_response": True}
    return body, user.client.post("/v1/completions", name=name, **options)


class Patient(HttpUser):
    """Waits for its answers: half of them whole, half as streams. Another status than 200 is a failure by itself."""

    weight = 3

    @task
    def wait_for_it(self):
        """Read an answer to its end. A stream that breaks off has another text."""
        stream, started = random.random() < 0.5, time.perf_counter()
        body, asked = ask(self, "streamed" if stream else "whole", stream)
        with asked as answer:
            if answer.status_code == 200:
                chunks = [line for line in answer.content.split(b"\n") if b'"choices"' in line]
                answer.request_meta["response_time"] = 1000 * (time.perf_counter() - started)
                text = "".join(json.loads(chunk.removeprefix(b"data: "))["choices"][0]["text"] for chunk in chunks)
                if TEXTS.setdefault(str(body["seed"]), text) != text:
                    answer.failure("not the text that the same request had before")


class Leaving(HttpUser):
    """Closes its connection before it has its answer."""

    @task
    def hang_up(self):
        """Leave a stream after its head, or a few of its lines."""
        with ask(self, "vanished", True)[1] as answer:
            list(zip(range(random.randrange(6)), answer.iter_lines(), strict=False))
            answer.close()

    @task
    def lose_patience(self):
        """Leave while nothing has come yet; if the answer is faster, it counts as one that was waited for."""
        with ask(self, "vanished", False, timeout=random.uniform(0.05, 0.4))[1] as answer:
            if answer.status_code == 200:
                answer.request_meta["name"] = "whole"
            elif isinstance(answer.error, ReadTimeout):
                answer.success()
