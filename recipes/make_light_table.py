"""Gather what recipes/make-light.sh has measured into one results file, and print it as a table.

    python recipes/make_light_table.py runs/make-light [--output results/make-light.json]

Path KL is of the heavy model's own trajectories, in nats per token drawn; the judge's figures are differences to the
heavy model under the same noise.
"""

import argparse
import json
import subprocess
from pathlib import Path

from understudy import ModelSchedule
from understudy.environment import describe_environment
from understudy.evaluation.document import read_evaluation
from understudy.importance import Importance
from understudy.whole_files import write_json

SHARES = {"light only": "L100%", "sandwich": "L12.5%,H75%,L12.5%"}


def main():
    """Read, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--output", type=Path, default=None)
    settings = parser.parse_args()
    found = sorted((settings.runs / "results").glob("importance-*.json"))
    models = {path.stem.removeprefix("importance-"): path for path in found}
    shown = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    content = {
        "what": "light models of one size: made of the heavy one, or trained from scratch on as many tokens",
        "command": "recipes/make-light.sh BLOCKS",
        "commit": shown.stdout.strip() or None,
        "environment": describe_environment(),
        "models": {name: read(settings.runs, name, path) for name, path in models.items()},
    }
    write_json(settings.output or settings.runs / "results" / "table.json", content)
    show(content["models"])


def read(runs, name, path):
    """All that is known of one light model."""
    importance, folder = Importance.load(path), runs / name
    paths = importance.path()
    divergence = {}
    for title, shares in SHARES.items():
        kl, error = paths.path_kl(ModelSchedule.parse(shares, paths.num_steps))
        divergence[title] = {"per_token": kl / paths.free_positions, "se": error / paths.free_positions}
    judged = runs / "results" / f"judged-{name}.json"
    return {
        "path_kl": divergence,
        "held_out_bound": importance.held_out.bound,
        "judge": read_evaluation(judged)["schedules"] if judged.is_file() else None,
        "training": training(folder / "training.json"),
        "make_light": content(folder / "make_light.json"),
        "importance": {"num_samples": paths.num_samples, "num_steps": paths.num_steps, "length": paths.length},
    }


def training(path):
    """Settings of a run and the tokens that the light model has seen; those that a teacher has seen come on top."""
    run = content(path)
    if run is None:
        return None
    config = run["config"]
    tokens = config["steps"] * config["batch_size"] * run["data"]["block_length"]
    return {"config": config, "tokens": tokens, "teacher_tokens": tokens if config.get("teacher") else 0}


def content(path):
    """A file of JSON, or None."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def show(models):
    """One line each."""
    print(
        "| light model | tokens | path KL a token, light only | in a sandwich | judge NLL, light only | in a sandwich |"
    )
    print("|---|---|---|---|---|---|")
    for name, model in models.items():
        tokens = model["training"] and f"{model['training']['tokens'] / 1e6:.1f} M"
        cells = [name, tokens or "–"]
        cells += ["{per_token:.4f} ± {se:.4f}".format(**model["path_kl"][title]) for title in SHARES]
        rows = (model["judge"] or [])[1:]
        gaps = {row["schedule"].count("H") > 0: row for row in rows}
        for has_heavy in (False, True):
            row = gaps.get(has_heavy)
            cells.append(
                "{:+.3f} ({:.3f} to {:.3f})".format(row["nll_difference"], *row["nll_difference_ci95"]) if row else "–"
            )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
