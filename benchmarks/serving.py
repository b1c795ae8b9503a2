"""Load the service as clients do: throughput and latency, clients that vanish, and memory over a long run.

Starts `understudy serve` twice, with continuous batching and for one request at a time, and has so many clients ask
each of them by turns over HTTP for streams; a client asks again once it has its answer. Then clients of all kinds come
and go for a while, a third of them before they have their answer; every answer is held against that to the same
request before. The last line of standard output is one JSON document.

    python benchmarks/serving.py --output results/serving-cpu.json
    python benchmarks/serving.py --random-pair --clients 1,8,32,128 --requests 256 --output results/serving-h100.json
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

import httpx
import numpy as np
from documents import deliver, document

MODES = {
    "continuous": ["--max-sequences", "128", "--batch-size", "32"],
    "one at a time": ["--max-sequences", "1", "--batch-size", "1"],
}
QUEUE = ["--queue", "1024", "--timeout", "3600"]
VANISHING = 1 / 3  # of the clients in the long run


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", default="1,4,16", help="numbers of clients at a time")
    parser.add_argument("--requests", type=int, default=48, help="in each measurement, at most twelve for each client")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--length", type=int, default=96, help="tokens of every sequence, prompt included")
    parser.add_argument("--new-tokens", type=int, help="instead of --length: sequences are then of several lengths")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--schedule", default="L12.5%,H75%,L12.5%")
    parser.add_argument("--seconds", type=float, default=120, help="of the long run; 0 leaves it out")
    parser.add_argument("--random-pair", action="store_true", help="12 and 4 blocks of width 768 with random weights")
    parser.add_argument("--output", type=Path, default=None)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = random_pair(Path(folder)) if settings.random_pair else []
        content = asyncio.run(measure(settings, models))
    given = {name: value for name, value in vars(settings).items() if name != "output"}
    deliver(document("the service under load", settings=given, **content), settings.output)


async def measure(settings, models):
    """All that is measured: the two by turns, so that what else the machine does meets both."""
    clients = [int(number) for number in settings.clients.split(",")]
    loads, texts, long_run = [], {mode: {} for mode in MODES}, None
    async with AsyncExitStack() as stack:
        services = {
            mode: await stack.enter_async_context(service(models + options + QUEUE)) for mode, options in MODES.items()
        }
        for client, _ in services.values():
            await gather(
                [ask(client, settings, seed) for seed in range(min(40, max(clients)))]
            )  # kernels, graphs, caches
        for number in clients * settings.repeats:
            for mode, (client, _) in services.items():
                loads.append({"mode": mode, **await load(client, settings, number, texts[mode])})
                print(json.dumps(loads[-1]), file=sys.stderr, flush=True)
        if settings.seconds:
            long_run = await come_and_go(*services["continuous"], settings, texts["continuous"])
    first, second = texts.values()
    shared = first.keys() & second.keys()
    return {
        "summary": [summary(loads, number) for number in clients],
        "same_text_in_both": {"requests": len(shared), "equal": sum(first[seed] == second[seed] for seed in shared)},
        "long_run": long_run,
        "loads": loads,
    }


def summary(loads, number):
    """Medians over the repeats, for one number of clients."""
    found = {}
    for mode in MODES:
        own = [load for load in loads if (load["mode"], load["clients"]) == (mode, number)]
        found[mode] = {
            "requests_per_second": median(row["requests_per_second"] for row in own),
            "tokens_per_second": median(row["tokens_per_second"] for row in own),
            **{
                f"{what}_{share}": median(row[what][share] for row in own)
                for what in ("latency_seconds", "first_text_seconds")
                for share in ("p50", "p99")
            },
            "sequences_in_a_pass": median(row["sequences_in_a_pass"] for row in own),
        }
    rates = [found[mode]["requests_per_second"] for mode in MODES]
    return {"clients": number, "times_the_throughput": round(rates[0] / rates[1], 2), **found}


@asynccontextmanager
async def service(options):
    """A client of a process of its own, once that is ready."""
    command = [sys.executable, "-m", "understudy", "serve", "--port", "0", "--no-studio", "--no-access-log", *options]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    try:
        address, said = None, b""
        async for line in process.stderr:
            said += line
            found = re.match(rb"API: +(http\S+)/v1", line)
            address = found[1].decode() if found else address
            if b"startup complete" in line:
                break
        else:
            raise SystemExit(said.decode())
        drain = asyncio.create_task(process.stderr.read())
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        async with httpx.AsyncClient(base_url=address, timeout=None, limits=limits) as client:
            yield client, process
        process.terminate()
        await process.wait()
        await drain
    finally:
        if process.returncode is None:
            process.kill()


async def ask(client, settings, seed, *, vanish_after=None, length=None):
    """One request as a stream: (text or None where the client vanished, seconds to the first text, seconds)."""
    by_length = length or settings.new_tokens is None
    sized = {"length": length or settings.length} if by_length else {"max_tokens": settings.new_tokens}
    body = {
        "prompt": f"The {['city', 'river', 'king', 'war'][seed % 4]}",
        **sized,
        "steps": settings.steps,
        "schedule": settings.schedule,
        "seed": seed,
        "ignore_eos": True,
        "stream": True,
    }
    started, first, parts = time.perf_counter(), None, []

    async def read():
        nonlocal first
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    first = first or time.perf_counter() - started
                    parts.append(chunk["choices"][0]["text"])

    try:
        await asyncio.wait_for(read(), vanish_after)
    except TimeoutError:
        return None, first, time.perf_counter() - started
    return "".join(parts), first, time.perf_counter() - started


async def load(client, settings, number, texts):
    """So many clients, each asking again as soon as it has its answer."""
    total = min(settings.requests, 12 * number)
    seeds, found = iter(range(1000, 1000 + total)), []
    before = await counted(client)

    async def one():
        for seed in seeds:
            text, first, seconds = await ask(client, settings, seed)
            texts.setdefault(seed, text)
            found.append((first, seconds))

    started = time.perf_counter()
    await gather([one() for _ in range(number)])
    seconds, after = time.perf_counter() - started, await counted(client)
    first, latency = (np.array(column) for column in zip(*found, strict=True))
    passes = after["understudy_batch_sequences_count"] - before["understudy_batch_sequences_count"]
    sequences = after["understudy_batch_sequences_sum"] - before["understudy_batch_sequences_sum"]
    return {
        "clients": number,
        "requests": total,
        "seconds": round(seconds, 3),
        "requests_per_second": round(total / seconds, 3),
        "tokens_per_second": round((revealed(after) - revealed(before)) / seconds, 1),
        "latency_seconds": percentiles(latency),
        "first_text_seconds": percentiles(first),
        "sequences_in_a_pass": round(sequences / passes, 2),
    }


async def come_and_go(client, process, settings, texts):
    """A long run of clients of all kinds; what came of them, and what the process holds."""
    random_source, outcomes, memory = random.Random(0), Counter(), []
    end = time.perf_counter() + settings.seconds

    async def one():
        while time.perf_counter() < end:
            seed = random_source.randrange(100_000, 100_200)
            length = 16 + seed % 48
            vanish = random_source.random() < VANISHING
            # A time at which most answers are under way: it scatters over all stages of a request.
            after = random_source.random() * typical if vanish else None
            text, _, _ = await ask(client, settings, seed, vanish_after=after, length=length)
            if text is None:
                outcomes["vanished"] += 1
            else:
                outcomes["answered"] += 1
                outcomes["not the same as before"] += texts.setdefault(seed, text) != text

    async def watch():
        while time.perf_counter() < end:
            memory.append(
                {"second": round(settings.seconds - (end - time.perf_counter()), 1), "mib": resident(process)}
            )
            await asyncio.sleep(settings.seconds / 24)

    typical = (await ask(client, settings, 99_999, length=40))[2] * 2
    await gather([*[one() for _ in range(16)], watch()])
    memory.append({"second": settings.seconds, "mib": resident(process)})
    after = await counted(client)
    quarter = len(memory) // 4
    return {
        "seconds": settings.seconds,
        "clients": 16,
        **{name: outcomes[name] for name in ("answered", "vanished", "not the same as before")},
        "runs": {
            state: int(after.get(f'understudy_runs_total{{state="{state}"}}', 0))
            for state in ("done", "cancelled", "failed")
        },
        "left_in_the_engine": int(after["understudy_active_sequences"] + after["understudy_queue_sequences"]),
        "resident_mib": memory,
        "resident_mib_second_quarter": round(float(np.mean([row["mib"] for row in memory[quarter : 2 * quarter]])), 1),
        "resident_mib_last_quarter": round(float(np.mean([row["mib"] for row in memory[-quarter:]])), 1),
    }


async def counted(client):
    """What /metrics says, once nothing is under way."""
    while True:
        lines = (await client.get("/metrics")).text.splitlines()
        found = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}
        if not found["understudy_active_sequences"] + found["understudy_queue_sequences"]:
            return found
        await asyncio.sleep(0.05)


def revealed(found):
    """Tokens revealed, by all models."""
    return sum(value for name, value in found.items() if name.startswith("understudy_revealed_tokens_total"))


async def gather(tasks):
    """Wait for all; the first that fails ends the measurement."""
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(task)


def resident(process):
    """MiB of memory that a process holds."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return round(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024, 1)


def percentiles(values):
    """Median, 90th and 99th percentile."""
    return {f"p{share}": round(float(np.percentile(values, share)), 4) for share in (50, 90, 99)}


def random_pair(folder):
    """Options for a pair as large as the paper's, with random weights and a made-up tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from understudy.denoisers.dit import DiTConfig, DiTForMaskedLM

    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"Ġword{number}" for number in range(50_000))]
    core = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, mask_token="<mask>")
    torch.manual_seed(0)
    options = []
    for name, blocks in (("heavy", 12), ("light", 4)):
        config = DiTConfig(
            vocab_size=len(tokenizer),
            hidden_size=768,
            num_attention_heads=12,
            num_hidden_layers=blocks,
            max_position_embeddings=1024,
            mask_token_id=tokenizer.mask_token_id,
        )
        network = DiTForMaskedLM(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(std=0.02)
        network.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        options += [f"--{name}", str(folder / name)]
    return options


if __name__ == "__main__":
    main()
