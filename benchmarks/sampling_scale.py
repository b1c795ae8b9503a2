"""Sample and evaluate by one process, by workers of Ray and by `accelerate launch`: the same samples, and how fast.

Sampling is that of a random pair as large as the paper's, for two numbers of samples, so that start-up can be told
from work; texts of the bundled pair are evaluated by its judge, and show what differs. Each command is run as a user
gives it. Without GPUs, processes talk by gloo and have one thread each. The last line of standard output is one JSON
document.

    python benchmarks/sampling_scale.py --processes 2 --output results/sampling-scale.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from documents import deliver, document

from serving import random_pair

UNDERSTUDY = [sys.executable, "-m", "understudy"]
RULES = ("H100%", "L12.5%,H75%,L12.5%", "L100%")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--num-samples", type=int, nargs=2, default=(64, 448), help="of the random pair")
    parser.add_argument("--steps", type=int, default=128, help="for the random pair")
    parser.add_argument("--length", type=int, default=1024, help="of the random pair's sequences")
    parser.add_argument("--schedule", default=RULES[1])
    parser.add_argument("--texts", type=int, default=1024, help="of the bundled pair, for each of three schedules")
    parser.add_argument("--text-steps", type=int, default=256)
    parser.add_argument("--text-length", type=int, default=256)
    parser.add_argument("--output", type=Path, default=None)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sampling = measure_sampling(settings, Path(folder))
        evaluation = measure_evaluation(settings, Path(folder))
    content = document(
        "sampling and evaluation by one process and by several",
        settings={name: value for name, value in vars(settings).items() if name != "output"},
        gpus=[torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        sampling=sampling,
        evaluation=evaluation,
    )
    deliver(content, settings.output)


# Sampling ----------------------------------------------------------------------------------------------------------


def measure_sampling(settings, folder):
    """Wall seconds of a command, samples a second between the two sizes, tokens that differ from one process."""
    pair, found = random_pair(folder), {}
    few, many = settings.num_samples
    for name, options in ways(settings).items():
        if name == "accelerate":  # `sample` is no command of accelerate's
            continue
        seconds = {}
        for number in (few, many):
            output = folder / f"{name.replace(' ', '-')}-{number}.jsonl"
            command = [*UNDERSTUDY, "sample", *pair, "--schedule", settings.schedule, "--steps", str(settings.steps)]
            command += ["--length", str(settings.length), "-n", str(number), "--output", str(output), *options]
            seconds[number] = run(name, command, settings)
        rate = (many - few) / (seconds[many] - seconds[few])
        tokens = tokens_of(output)
        found[name] = {"seconds": seconds, "samples_per_second": rate}
        if name == "one process":
            reference, base = tokens, rate
        differs = tokens != reference
        found[name] |= {
            "times_one_process": rate / base,
            "tokens_that_differ": float(differs.mean()),
            "samples_that_differ": float(differs.any(axis=1).mean()),
        }
    return found


def tokens_of(path):
    """Token ids of a file of samples, (samples, length)."""
    return np.array([json.loads(line)["token_ids"] for line in path.read_text(encoding="utf-8").splitlines()])


# Evaluation --------------------------------------------------------------------------------------------------------


def measure_evaluation(settings, folder):
    """Figures of each schedule by every way, and the wall seconds of the command."""
    found = {}
    for name, options in ways(settings).items():
        output = folder / f"evaluation-{name.replace(' ', '-')}.json"
        launcher = UNDERSTUDY
        if name == "accelerate":
            launch = ["-m", "accelerate.commands.launch", "--num_processes", str(settings.processes)]
            launcher = [sys.executable, *launch, "-m", "understudy"]
        command = [*launcher, "evaluate", *(part for rule in RULES for part in ("--schedule", rule))]
        command += ["--steps", str(settings.text_steps), "--length", str(settings.text_length)]
        command += ["-n", str(settings.texts), "--output", str(output), *options]
        seconds = run(name, command, settings)
        rows = json.loads(output.read_text(encoding="utf-8"))["schedules"]
        shown = ("schedule", "gen_ppl", "gen_ppl_ci95", "entropy", "nll_difference", "nll_difference_ci95")
        found[name] = {"seconds": seconds, "schedules": [{key: row[key] for key in shown} for row in rows]}
    return found


def ways(settings):
    """Options of the command for each way of running it."""
    return {
        "one process": [],
        "ray, one worker": ["--ray", "--ray-workers", "1"],
        f"ray, {settings.processes} workers": ["--ray", "--ray-workers", str(settings.processes)],
        "accelerate": [],
    }


def run(name, command, settings):
    """Wall seconds of a command; what it says goes to standard error."""
    several = name not in ("one process", "ray, one worker")
    variables = dict(os.environ)
    if not torch.cuda.is_available():
        variables |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    elif not several:
        variables |= {"CUDA_VISIBLE_DEVICES": "0"}
    began = time.perf_counter()
    subprocess.run(command, env=variables, stdout=sys.stderr, check=True)
    seconds = time.perf_counter() - began
    print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds


if __name__ == "__main__":
    main()
