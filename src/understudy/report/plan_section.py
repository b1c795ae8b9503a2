"""What a plan says, as a section of a report."""

from math import hypot

from understudy.planning import Plan, Prediction
from understudy.report.blocks import Prose, Section
from understudy.report.collection import Source
from understudy.report.comparison_table import TextTable
from understudy.report.origins import origin_of, picture
from understudy.report.plan_figure import render_plan
from understudy.report.search_reading import short_schedule
from understudy.report.wording import with_error

TOLD_APART = 2  # standard errors
UNITS = {
    "blocks": "of the nominal FLOPs of the blocks",
    "head": "of the nominal FLOPs with head",
    "executed": "of the FLOPs executed under the same plan",
    "milliseconds": "of the time",
    "steps": "of the reference's steps",
}


def plan_section(source: Source[Plan], name: str) -> Section:
    """The schedule, its prediction beside the rules with a name, and what it certifies. name: of the picture."""
    plan = source.content
    alt = (
        f"Left: predicted path KL against the share saved, for the frontier, the plan ({_figures(plan.prediction)}) "
        f"and {len(plan.named)} named rules. Right: divergence over the steps, and which model the plan gives them to."
    )
    blocks = picture(name, lambda: render_plan(plan), alt, "Predictions from the analysis; no schedule was sampled.")
    full = str(plan.schedule)
    shown = () if full == short_schedule(plan.schedule) else (Prose(f"The schedule in full: {full}"),)
    origin = origin_of(source.name, plan.command, plan.settings, plan.environment, analysis=plan.importance or "")
    return Section(source.name, _facts(plan), _reading(plan), (*shown, *blocks, _table(plan), origin))


def _facts(plan: Plan) -> str:
    settings, parts = plan.settings, [f"{plan.schedule.num_steps} steps"]
    if settings.get("condition"):
        parts.append(f"condition {settings['condition']}")
    if settings.get("analysed_samples") is not None:
        halves = "" if settings.get("judging_samples") is None else ", half to choose by and half to predict from"
        parts.append(f"from {settings['analysed_samples']} trajectories of {plan.keys[0]}{halves}")
    exact = "exact" if plan.is_exact else f"not proven best: no schedule is below {plan.lower_bound:.4g} nats"
    return ", ".join([*parts, f"costs in {plan.unit}", exact])


def _reading(plan: Plan) -> tuple[str, ...]:
    entry = plan.prediction
    first = (
        f"{short_schedule(plan.schedule)} saves {entry.saved:.1%} {UNITS.get(plan.convention, plan.convention)} for a "
        f"predicted path KL of {_figures(entry)}{_rounded(plan)}."
    )
    return (first, *_against_rules(plan), plan.certificate.sentence)


def _origin(plan: Plan) -> str:
    """Where the predictions come from."""
    if plan.certificate.chosen_on is not None:
        return "from others than the plan was chosen by"
    return "what the plan was chosen by in part, so it flatters the plan a little"


def _against_rules(plan: Plan) -> tuple[str, ...]:
    """How the plan stands to the best rule with a name; standard errors as if independent, on the safe side."""
    rules = [entry for entry in plan.named if entry.schedule != plan.schedule]
    if not rules:
        return ()
    best, own = min(rules, key=lambda entry: entry.path_kl), plan.prediction
    gain = best.path_kl - own.path_kl
    is_apart = abs(gain) > TOLD_APART * hypot(best.path_kl_se, own.path_kl_se)
    verdict = "beyond noise" if is_apart else "within noise"
    if abs(gain) <= plan.rounding:
        return (f"That is no less than the best named rule, {best.name}, to within the rounding of divergences.",)
    side = "less" if gain >= 0 else "more"
    return (f"That is {abs(gain):.3g} nats {side} than the best named rule, {best.name}: {verdict}.",)


def _rounded(plan: Plan) -> str:
    is_rounding = plan.prediction.light_steps and abs(plan.prediction.path_kl) <= plan.rounding
    return f", less than the rounding of divergences, {plan.rounding:.1g}" if is_rounding else ""


def _figures(entry: Prediction) -> str:
    return f"{with_error(entry.path_kl, entry.path_kl_se)} nats a sequence"


def _table(plan: Plan) -> TextTable:
    rows, entries = [], (plan.prediction, *plan.named)
    has_time = any(entry.milliseconds is not None for entry in entries)
    for entry in entries:
        flops = entry.flops
        saved = () if flops is None else (flops.nominal_blocks_saved, flops.nominal_saved, flops.executed_saved)
        shares = [f"{share:.1%}" for share in (*saved, *(() if flops is None else (flops.schedule_saved,)))] or [
            "–"
        ] * 4
        cells = [
            short_schedule(entry.schedule),
            str(entry.light_steps),
            f"{entry.path_kl:.3g} ± {entry.path_kl_se:.2g}",
        ]
        cells += [f"{entry.per_token:.4f}", *shares]
        if has_time:
            is_known = entry.milliseconds is not None and entry.time_saved is not None
            cells += [f"{entry.milliseconds:.3g}", f"{entry.time_saved:.1%}"] if is_known else ["–", "–"]
        rows.append((str(entry.name), *cells))
    columns = ["rule", "schedule", "light steps", "path KL", "a token", "saved: nominal, blocks", "nominal, with head"]
    columns += ["executed", "by the schedule alone"]
    columns += ["milliseconds a sample", "time saved"] if has_time else []
    return TextTable(
        "The plan and the rules with a name, at one budget",
        tuple(columns),
        tuple(rows),
        f"Path KL: predicted, nats a sequence, ± one standard error over trajectories; {_origin(plan)}. FLOPs saved "
        f"are expectations. Executed: against dense passes of {plan.keys[0]}; by the schedule alone: against "
        f"{plan.keys[0]} making the same passes.",
    )
