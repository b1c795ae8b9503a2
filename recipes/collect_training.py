"""Gather the logs of finished training runs into one results file, and draw their curves.

python recipes/collect_training.py runs/demo --hardware "one H200" --commit COMMIT \
        --output results/bundled-models.json --picture docs/images/bundled-training.png
"""

import argparse
import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors import safe_open

COLOURS = {"heavy": "#0072B2", "light": "#E69F00", "judge": "#009E73"}


def main():
    """Read, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    for name in ("hardware", "commit", "output", "picture"):
        parser.add_argument(f"--{name}", required=True)
    settings = parser.parse_args()
    models = {name: read_run(settings.runs / name) for name in COLOURS}
    heavy, light = (models[name]["validation"] for name in ("heavy", "light"))
    content = {
        "what": "training of the bundled models: curves, and bounds on held-out text in nats per token",
        "command": "recipes/demo.sh CORPUS",
        "commit": settings.commit,
        "hardware": settings.hardware,
        "models": models,
        "gap_light_minus_heavy": light["bound"] - heavy["bound"],
        "gap_se_if_independent": (heavy["bound_se"] ** 2 + light["bound_se"] ** 2) ** 0.5,
    }
    Path(settings.output).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw(models, Path(settings.picture))


def read_run(folder):
    """Settings, versions, curve and final validation of one run."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    training = json.loads((folder / "training.json").read_text())
    with safe_open(folder / "model.safetensors", "pt") as file:
        parameters = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    return {
        "config": {key: value for key, value in training["config"].items() if key not in ("data", "output")},
        "data": training["data"],
        "versions": training["versions"],
        "parameters": parameters,
        "tokens": log[-1]["tokens"],
        "tokens_per_second": sorted(line["tokens_per_second"] for line in log)[len(log) // 2],
        "curve": [{"tokens": line["tokens"], "loss": round(line["loss"], 4)} for line in log[4::5]],
        "validations": [
            {"tokens": line["tokens"], "bound": line["validation"]["bound"]} for line in log if "validation" in line
        ],
        "validation": log[-1]["validation"],
    }


def draw(models, path):
    """Training loss and validation bounds against tokens seen."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, model in models.items():
        axes.plot(
            *zip(*((p["tokens"] / 1e6, p["loss"]) for p in model["curve"]), strict=True), color=COLOURS[name], lw=1
        )
        points = [(p["tokens"] / 1e6, p["bound"]) for p in model["validations"]]
        axes.plot(*zip(*points, strict=True), "o", color=COLOURS[name])
        axes.annotate(f"{name}: {points[-1][1]:.3f}", points[-1], (8, 0), textcoords="offset points", va="center")
    axes.set(xlabel="million tokens seen", ylabel="nats per token", ylim=(3.1, 5.2), xlim=(0, 1100))
    axes.set_title("Training of the bundled models: loss (lines), held-out bound (dots)", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(path, dpi=150)


if __name__ == "__main__":
    main()
