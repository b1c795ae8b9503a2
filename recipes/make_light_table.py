"""Gather what recipes/make-light.sh has measured into one results file, and print it as a table.

    python recipes/make_light_table.py runs/make-light [MORE_RUNS ...] [--output results/make-light.json]

Path KL is of the heavy model's own trajectories, in nats per token drawn; the judge's figures are differences to the
heavy model under the same noise. Of several folders, such as those of other numbers of steps, every model is a row.
"""

import argparse
import json
import subprocess
from pathlib import Path

from understudy import ModelSchedule
from understudy.evaluation.document import read_evaluation
from understudy.importance import Importance
from understudy.whole_files import write_json

SHARES = {"light only": "L100%", "sandwich": "L12.5%,H75%,L12.5%"}
JUDGED = ("schedule", "gen_ppl", "gen_ppl_ci95", "nll_difference", "nll_difference_ci95", "entropy", "num_samples")
SETTINGS = ("steps", "batch_size", "learning_rate", "distillation_weight", "seed")
BUNDLED = Path(__file__).resolve().parent.parent / "results" / "bundled-models.json"
HEAD = (
    "| light model | blocks kept | λ | tokens | held-out bound | path KL, light only | path KL, sandwich "
    "| judge, light only | judge, sandwich |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|",
)


def main():
    """Read, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=None)
    settings = parser.parse_args()
    found = [(runs, path) for runs in settings.runs for path in sorted((runs / "results").glob("importance-*.json"))]
    models = [read(runs, path.stem.removeprefix("importance-"), path) for runs, path in found if path.stat().st_size]
    shown = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    document = {
        "what": "light models of one size: made of the heavy one, or trained from scratch",
        "command": "recipes/make-light.sh BLOCKS",
        "commit": shown.stdout.strip() or None,
        "environment": content(found[0][1])["environment"],
        "models": models,
    }
    write_json(settings.output or settings.runs[0] / "results" / "table.json", document)
    print(table(models))


def read(runs, name, path):
    """All that is known of one light model."""
    importance, folder = Importance.load(path), runs / name
    paths = importance.path()
    divergence = {}
    for title, shares in SHARES.items():
        kl, error = paths.path_kl(ModelSchedule.parse(shares, paths.num_steps))
        divergence[title] = {"per_token": kl / paths.free_positions, "se": error / paths.free_positions}
    made, judged = content(folder / "make_light.json"), runs / "results" / f"judged-{name}.json"
    rows = read_evaluation(judged)["schedules"] if judged.is_file() else []
    return {
        "name": name,
        "kept": made and made["kept"],
        "kl_before_healing": made and made["kl"],
        "training": training(folder / "training.json", name),
        "held_out_bound": importance.held_out.bound["L"],
        "held_out_bound_of_the_heavy": importance.held_out.bound["H"],
        "path_kl": divergence,
        "judge": [{key: row[key] for key in JUDGED} for row in rows],
        "measured_with": {
            "trajectories": paths.num_samples,
            "steps": paths.num_steps,
            "length": paths.length,
            "held_out_blocks": importance.data["blocks"],
        },
    }


def training(path, name):
    """Settings of a run and the tokens that the light model has seen; those that a teacher has seen come on top."""
    run = content(path)
    if run is None:
        bundled = content(BUNDLED) if name == "original" else None
        return bundled and {"tokens": bundled["models"]["light"]["tokens"], "teacher_tokens": 0}
    config = run["config"]
    tokens = config["steps"] * config["batch_size"] * run["data"]["block_length"]
    own = {key: config[key] for key in SETTINGS if key in config}
    return {**own, "tokens": tokens, "teacher_tokens": tokens if config.get("teacher") else 0}


def content(path):
    """A file of JSON, or None."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def table(models):
    """A row each, fewest tokens and lowest bound first."""
    ordered = sorted(models, key=lambda model: ((model["training"] or {"tokens": 0})["tokens"], -bound(model)))
    return "\n".join([*HEAD, *(f"| {' | '.join(cells(model))} |" for model in ordered)])


def cells(model):
    """What the row of one model says."""
    run, kept = model["training"], model["kept"]
    share = None if run is None or kept is None else run["distillation_weight"]
    yield what(model)
    yield "–" if kept is None else ", ".join(map(str, kept))
    yield "–" if share is None else f"{share:g}"
    yield "–" if run is None else f"{run['tokens'] / 1e6:.0f} M"
    yield f"{bound(model):.3f}"
    for title in SHARES:
        yield "{per_token:.4f} ± {se:.4f}".format(**model["path_kl"][title])
    gaps = {"H" in row["schedule"]: row for row in model["judge"][1:]}
    for has_heavy in (False, True):
        row = gaps.get(has_heavy)
        yield "{:+.3f} [{:.3f}, {:.3f}]".format(row["nll_difference"], *row["nll_difference_ci95"]) if row else "–"


def what(model):
    """The name for a reader."""
    if model["kept"] is None:
        return {"original": "the bundled light model", "scratch": "from random weights"}.get(model["name"], "–")
    return "blocks kept" if model["training"] is None else "blocks kept and healed"


def bound(model):
    """Nats per token on held-out text."""
    return model["held_out_bound"][0]


if __name__ == "__main__":
    main()
