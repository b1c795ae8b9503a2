"""Train one DiT in one process and in several (DDP, FSDP2): the same losses, the speed-up, checkpoints that fit all.

Every cell has the same global batch and seed, no dropout (its noise is a function of the process) and random blocks
that the script makes itself. Three kinds of cell:

    equality    float32, a record every step: the losses step by step
    speed       the trainer's own precision (bf16 on CUDA), after a warm-up: losses, tokens per second, peak memory
    handover    goes on from a checkpoint that another set-up wrote, against the losses of the one that was not stopped

Each launch (torchrun, as `accelerate launch` starts it) runs several cells, which are kept in `--folder` one by one:
given again, the script goes on with those that are missing. Without CUDA the processes talk by gloo. The last line of
standard output is one JSON document.

    python benchmarks/training_scale.py --processes 2 --folder runs/training-scale --output results/training-scale.json
"""

import argparse
import dataclasses
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from documents import deliver, document

from understudy.data.token_blocks import Manifest, Shard, SplitSummary, shard_dtype
from understudy.training import TrainingConfig, train
from understudy.training.loop import make_engine
from understudy.whole_files import read_json, write_array, write_json

FSDP = {  # what `accelerate launch --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP` sets
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}
NEVER = 10**6  # steps of the configurations: runs are left before the end, where the model would be written
LONGEST = 1800  # seconds of one launch


def main():
    """Launch what is missing, compare and print."""
    settings = parse_arguments()
    if settings.launch:
        run_cells(read_json(settings.launch, mend="start anew"))
        return
    settings.folder.mkdir(parents=True, exist_ok=True)
    make_blocks(settings)
    failures = {cells[-1]["name"]: launch(settings, mode, cells) for mode, cells in plan(settings)}
    found = {path.stem: json.loads(path.read_text()) for path in sorted((settings.folder / "cells").glob("*.json"))}
    content = document(
        "training in one process and in several: losses, tokens per second, peak memory, checkpoints handed over",
        settings={name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()},
        gpus=[torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        **summary(found, settings),
        failures={name: text for name, text in failures.items() if text},
        configs={kind: config_of(found, kind) for kind in ("equality", "speed")},
        cells={name: {key: value for key, value in cell.items() if key != "asked"} for name, cell in found.items()},
    )
    deliver(content, settings.output)
    sys.exit(1 if content["failures"] else 0)


def parse_arguments():
    """Defaults are the paper's heavy model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"processes": 2, "hidden-size": 768, "blocks": 12, "heads": 12, "length": 1024, "vocabulary": 50258}
    sizes |= {"batch-size": 64, "micro-batch": 32, "warm-up": 20, "steps": 60, "window": 10, "seed": 1}
    equality = {"hidden-size": 512, "blocks": 6, "heads": 8, "batch-size": 16, "steps": 12, "handover": 8}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in equality.items():
        parser.add_argument(f"--equality-{name}", type=int, default=value)
    parser.add_argument("--modes", nargs="+", default=["one", "ddp", "fsdp"], choices=["one", "ddp", "fsdp"])
    parser.add_argument("--folder", type=Path, default=Path("runs/training-scale"), help="data, checkpoints, cells")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--launch", type=Path, default=None, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if not settings.equality_handover < settings.equality_steps < 2 * settings.equality_handover:
        parser.error("--equality-handover must lie before --equality-steps, and twice it after")
    return settings


# What is run ---------------------------------------------------------------------------------------------------------


def plan(settings):
    """Launches in order, (name of the set-up, its cells): a checkpoint is written before it is handed over."""
    modes = settings.modes
    several = [mode for mode in modes if mode != "one"]
    for mode in modes:
        cells = [equality(settings, mode), speed(settings, mode)]
        if mode in several and "one" in modes:
            cells.append(handover(settings, "one", mode))
        yield mode, cells
    if "one" in modes:
        yield "one", [handover(settings, writer, "one") for writer in modes]


def equality(settings, mode):
    """The losses step by step, and a checkpoint on the way."""
    config = equality_config(settings, f"equality-{mode}")
    return {"name": f"equality-{mode}", "until": settings.equality_steps, "config": config.to_json(), "from": None}


def handover(settings, writer, reader):
    """From the checkpoint of `writer` to the last step of the equality runs."""
    name = f"handover-{writer}-to-{reader}"
    config = equality_config(settings, name)
    return {
        "name": name,
        "until": settings.equality_steps,
        "config": config.to_json(),
        "from": str(settings.folder / f"equality-{writer}"),
    }


def speed(settings, mode):
    """A run whose first records, the warm-up, do not count."""
    config = common_config(
        settings,
        f"speed-{mode}",
        hidden_size=settings.hidden_size,
        blocks=settings.blocks,
        heads=settings.heads,
        batch_size=settings.batch_size,
        micro_batch=settings.micro_batch,
        log_every=settings.window,
    )
    until = settings.warm_up + settings.steps
    return {"name": f"speed-{mode}", "until": until, "config": config.to_json(), "from": None}


def equality_config(settings, name):
    """Small, in float32, so that differences are those of rounding."""
    return common_config(
        settings,
        name,
        hidden_size=settings.equality_hidden_size,
        blocks=settings.equality_blocks,
        heads=settings.equality_heads,
        batch_size=settings.equality_batch_size,
        micro_batch=max(1, settings.equality_batch_size // settings.processes),
        log_every=1,
        checkpoint_every=settings.equality_handover,
        precision="fp32",
    )


def common_config(settings, name, **changes):
    """The published recipe without dropout, and with a warm-up that a short run gets through."""
    options = {"dropout": 0.0, "warmup": 20, "seed": settings.seed, "checkpoint_minutes": 0.0, "validate_every": 0}
    folder = settings.folder
    return TrainingConfig(data=str(folder / "blocks"), output=str(folder / name), steps=NEVER, **options, **changes)


def launch(settings, mode, cells):
    """Run the cells that are not there yet; gives the end of what the processes said where they failed."""
    missing = [cell for cell in cells if not is_there(settings.folder, cell)]
    if not missing:
        return None
    path = settings.folder / "launch.json"
    write_json(path, {"mode": mode, "folder": str(settings.folder), "warm_up": settings.warm_up, "cells": missing})
    command = [sys.executable]
    if mode != "one":
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(settings.processes)]
    began = time.perf_counter()
    print(f"{mode}: {', '.join(cell['name'] for cell in missing)}", file=sys.stderr, flush=True)
    command += [str(Path(__file__).resolve()), "--launch", str(path)]
    with subprocess.Popen(command, env=environment(mode), stderr=subprocess.PIPE, text=True) as process:
        try:
            errors = process.communicate(timeout=LONGEST)[1]
        except subprocess.TimeoutExpired:
            process.terminate()  # not killed: torchrun then ends its processes
            errors = process.communicate()[1] + f"\nstopped after {LONGEST} s"
    print(f"{mode}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return errors[-4000:] if process.returncode else None


def environment(mode):
    """Variables of a launch: this source, one thread a process where there is no GPU."""
    source = str(Path(__file__).resolve().parent.parent / "src")
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if not torch.cuda.is_available():
        variables |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return variables | (FSDP if mode == "fsdp" else {})


def is_there(folder, cell):
    """Whether a cell was run with these settings; of others nothing is left."""
    path = folder / "cells" / f"{cell['name']}.json"
    if path.is_file() and json.loads(path.read_text())["asked"] == cell:
        return True
    path.unlink(missing_ok=True)
    shutil.rmtree(cell["config"]["output"], ignore_errors=True)
    return False


def make_blocks(settings):
    """A prepared folder of random text: every other token follows from its left neighbour, the rest is Zipf's."""
    folder, ids = settings.folder / "blocks", settings.vocabulary - 2  # the last two end texts and mask
    most = settings.batch_size * (settings.warm_up + settings.steps)
    blocks = max(most, settings.equality_batch_size * settings.equality_steps)
    if (folder / "manifest.json").is_file():
        there = Manifest.read(folder)
        found = there.vocab_size, there.block_length, there.splits["train"].blocks
        if found == (settings.vocabulary, settings.length, blocks):
            return
        shutil.rmtree(folder)
    rng = np.random.default_rng(0)
    text = np.minimum(rng.zipf(1.2, (blocks, settings.length)), ids) - 1
    follows = rng.random(text.shape) < 0.5
    for place in range(1, settings.length):
        successor = (text[:, place - 1] * 7 + 3) % ids
        text[:, place] = np.where(follows[:, place], successor, text[:, place])
    folder.mkdir(parents=True, exist_ok=True)
    digest = write_array(folder / "train-00000.npy", text.astype(shard_dtype(settings.vocabulary)))
    split = SplitSummary((Shard("train-00000.npy", blocks, digest),), blocks, text.size, text.size)
    special = {"mask_id": ids + 1, "bos_id": ids, "eos_id": ids, "pad_id": None}
    shape = {"vocab_size": settings.vocabulary, "block_length": settings.length, "layout": "packed", "frame": "none"}
    Manifest(tokenizer_sha256="0" * 64, splits={"train": split}, **special, **shape).write(folder)


# In the launched processes -------------------------------------------------------------------------------------------


def run_cells(asked):
    """Run the cells of a launch; process 0 keeps each as it is done."""
    (Path(asked["folder"]) / "cells").mkdir(exist_ok=True)
    if asked["mode"] == "fsdp" and not torch.cuda.is_available():
        shard_on_cpu()
    for cell in asked["cells"]:
        result = {"asked": cell, **run_cell(cell, asked["warm_up"])}
        if is_main():
            write_json(Path(asked["folder"]) / "cells" / f"{cell['name']}.json", result)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def shard_on_cpu():
    """Rehearse FSDP2 by gloo: accelerate shards on accelerators only, and would take DDP without a word."""
    state = make_engine().state
    state.fsdp_plugin = FullyShardedDataParallelPlugin()
    for shared in (PartialState._shared_state, AcceleratorState._shared_state):
        shared["distributed_type"] = DistributedType.FSDP


def is_main():
    """Whether this process writes."""
    return os.environ.get("RANK", "0") == "0"


def run_cell(cell, warm_up):
    """Drive the trainer to a step and leave it there."""
    config = TrainingConfig.from_json(cell["config"])
    if cell["from"] is not None and is_main():
        take_over(Path(cell["from"]), Path(config.output))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    first, *records = drive(config, cell["until"])
    result = {
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "distributed": str(AcceleratorState().distributed_type),
        "seconds": time.perf_counter() - began,
        "started_at_step": first.step,
        "notes": list(first.notes),
        "losses": {record.step: record.loss for record in records},
        "grad_norms": {record.step: record.grad_norm for record in records},
        "tokens_per_second": {r.step: r.tokens_per_second for r in records if r.step > warm_up},
        "peak_memory_bytes": peak_memory(),
    }
    release()
    return result


def drive(config, until):
    """Records up to the one of step `until`."""
    run = train(config)
    records = []
    for record in run:
        records.append(dataclasses.replace(record, validation=None))
        if record.step >= until:
            break
    run.close()
    return records


def take_over(source, target):
    """A run's folder as its first checkpoint left it; files are linked, not copied."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=os.link)


def release():
    """Give the memory of a run back before the next one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory():
    """Of the process that took most: allocated on the GPU, or without one resident on the host since it started."""
    if torch.cuda.is_available():
        peak = torch.tensor(torch.cuda.max_memory_allocated(), device="cuda")
    else:
        peak = torch.tensor(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(peak, torch.distributed.ReduceOp.MAX)
    return int(peak)


# What it says --------------------------------------------------------------------------------------------------------


def summary(cells, settings):
    """Speed by set-up, and the largest relative difference of a loss to one process."""
    tokens = {mode: rate(cells.get(f"speed-{mode}")) for mode in settings.modes}
    alone = tokens.get("one")
    return {
        "tokens_per_second": tokens,
        "speed_up": {mode: value / alone for mode, value in tokens.items() if alone and value},
        "peak_memory_bytes": {
            mode: cells[f"speed-{mode}"]["peak_memory_bytes"] for mode in settings.modes if f"speed-{mode}" in cells
        },
        "largest_relative_difference_of_losses": {
            name: differences(cells, name) for name in sorted(cells) if not name.endswith("-one") or "handover" in name
        },
    }


def config_of(cells, kind):
    """The trainer's settings in the cells of a kind, which differ in their folders alone."""
    configs = [cell["asked"]["config"] for name, cell in cells.items() if name.startswith(kind)]
    return configs[0] if configs else None


def rate(cell):
    """Tokens per second over all windows after the warm-up, which are equally long in steps."""
    rates = list(cell["tokens_per_second"].values()) if cell else []
    return len(rates) / sum(1 / value for value in rates) if rates else None


def differences(cells, name):
    """Losses and gradient norms of a cell against those of one process that was not stopped, by the same step."""
    reference = cells.get("speed-one" if name.startswith("speed") else "equality-one")
    if reference is None:
        return None
    found = {}
    for kind in ("losses", "grad_norms"):
        pairs = [(value, reference[kind][step]) for step, value in cells[name][kind].items()]
        found[kind] = max((abs(value - expected) / abs(expected) for value, expected in pairs), default=None)
    return {"steps": len(cells[name]["losses"]), **found}


if __name__ == "__main__":
    main()
