"""The demonstration: where light steps cost quality and where they do not, on models small enough for a laptop."""

from collections.abc import Generator, Mapping
from types import MappingProxyType

from understudy.denoisers import Denoiser, load_judge
from understudy.denoisers.model_set import bundled_models, bundled_paths
from understudy.errors import SettingError
from understudy.evaluation import Comparison, ComparisonProgress, Judge, compare_schedules, fewer_steps
from understudy.importance import Importance
from understudy.planning import Budget, Plan, make_plan
from understudy.sampling import SamplingOptions
from understudy.schedule import ModelSchedule
from understudy.tokenizer_files import load_tokenizer

DEMO_SCHEDULES: Mapping[str, str] = MappingProxyType(
    {
        "heavy only": "H100%",
        "sandwich": "L12.5%,H75%,L12.5%",
        "light middle": "H37.5%,L25%,H37.5%",
        "light only": "L100%",
    }
)
"""The sandwich of arXiv 2604.02340, the same share of light steps where that paper finds it worst, and the two ends."""

RIVAL = "fewer steps"  # of the heavy model alone, at the cost of the sandwich
LIGHT_SHARE = 0.25  # of the steps, in every schedule between the ends

# Two CPU cores make these in about two minutes with the bundled models.
NUM_SAMPLES, STEPS, LENGTH = 8, 64, 128
MIN_STEPS = 8  # every percentage above then comes to a whole step


def run_demo(
    denoisers: Mapping[str, Denoiser] | None = None,
    judge: Judge | None = None,
    *,
    num_samples: int = NUM_SAMPLES,
    steps: int = STEPS,
    length: int = LENGTH,
    seed: int = 0,
    planned: ModelSchedule | None = None,
) -> Generator[ComparisonProgress, None, Comparison]:
    """Compare `DEMO_SCHEDULES` and `RIVAL` at one seed; progress is yielded, the return value is the comparison.

    denoisers: a heavy model under H and a light one under L; judge: a model that shares their tokenizer; the bundled
    ones unless given. steps: at least 8. planned: one more schedule, such as that of `plan_demo`. Eight samples show
    the ends apart; they seldom settle the finer differences, and the comparison says which they leave open. Raises the
    errors of `compare_schedules`.
    """
    if steps < MIN_STEPS:
        raise SettingError(f"steps is {steps}; the demo needs at least {MIN_STEPS}, so that 12.5 % is a whole step")
    models = bundled_models().denoisers if denoisers is None else denoisers
    scorer = bundled_judge() if judge is None else judge
    options: SamplingOptions = {"num_samples": num_samples, "length": length, "seed": seed}
    schedules = {name: ModelSchedule.parse(text, steps) for name, text in DEMO_SCHEDULES.items()}
    schedules[RIVAL] = fewer_steps(models, schedules["sandwich"], **options)
    if planned is not None:
        schedules["planned"] = planned
    return (yield from compare_schedules(models, schedules, scorer, **options))


def bundled_importance() -> Importance:
    """What `understudy analyze` found of the bundled pair; the file names its command, versions and hardware."""
    return Importance.load(bundled_paths()["heavy"].parent / "importance.json")


def plan_demo(steps: int = STEPS) -> Plan:
    """Plan the bundled pair's best schedule with as many light steps as the demo's sandwich has."""
    return make_plan(bundled_importance(), Budget(light_fraction=LIGHT_SHARE), steps=steps)


def bundled_judge(device: str = "cpu") -> Judge:
    """Load the small judge that comes with Understudy. It reads the tokens of the bundled pair only."""
    path = bundled_paths()["judge"]
    return Judge(load_judge(path, device=device), load_tokenizer(path), "bundled")


__all__ = ["DEMO_SCHEDULES", "RIVAL", "bundled_importance", "bundled_judge", "bundled_models", "plan_demo", "run_demo"]
