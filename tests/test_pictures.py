"""Pictures as they are seen: what is written on them covers nothing, is whole, and speaks only of what is drawn."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from driving import finish
from importance_files import hump, make_importance, make_path, pair_importance, trio_importance
from stage import make_judge, make_pair, make_tokenizer
from understudy.demo import bundled_importance
from understudy.planning import Budget, make_plan
from understudy.report import comparison_figure, importance_figure, plan_figure, search_figure
from understudy.report.canvas import new_figure
from understudy.report.label_places import NamedBar, place_names
from understudy.schedule import ModelSchedule
from understudy.search import PlannerRank, SearchSettings, SearchSpace, search_schedules

pytest.importorskip("matplotlib")


@pytest.fixture
def drawn(monkeypatch):
    """Draw by a module's function; gives the figure, laid out."""

    def draw(module, function, *arguments):
        figures = []
        monkeypatch.setattr(module, "png_bytes", lambda figure: figures.append(figure) or b"")
        getattr(module, function)(*arguments)
        figures[0].draw_without_rendering()
        return figures[0]

    return draw


def extents(artist):
    return artist.get_window_extent().extents


def share_area(first, second, slack=0.5):
    """Whether two boxes (left, bottom, right, top) overlap by more than a rounding."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return width > slack and height > slack


def named(axes):
    """Boxes of the names of marks, without the lines that lead to them."""
    from matplotlib.text import Text

    return [Text.get_window_extent(text).extents for text in axes.texts]


# Comparisons.

CROWD = [
    *((f"schedule {index}", 0.80 + 0.01 * index, 150 + 2 * index, 5 + index) for index in range(6)),
    ("H1000", 1.0, 140, 4),
    ("L1000", 0.3, 200, 6),
]


def test_names_cover_neither_bars_nor_each_other():
    axes = new_figure((11, 5)).subplots(1, 2)[0]
    bars = [NamedBar(name, x, y, y - half, y + half) for name, x, y, half in CROWD]
    for bar in bars:
        axes.errorbar(bar.x, bar.y, yerr=bar.y - bar.low, fmt="o")
    axes.set_xlim(0.2, 1.1)
    axes.set_ylim(130, 215)
    limits = axes.get_xlim(), axes.get_ylim()
    names = place_names(axes, bars)
    assert [name.get_text() for name in names] == [bar.name for bar in bars]
    assert (axes.get_xlim(), axes.get_ylim()) == limits
    axes.figure.draw_without_rendering()
    boxes = named(axes)
    sticks = []
    for bar in bars:
        (x, low), (_, high) = axes.transData.transform([(bar.x, bar.low), (bar.x, bar.high)])
        sticks.append((x - 2, low, x + 2, high))
    inside = axes.bbox.extents
    for index, box in enumerate(boxes):
        assert not any(share_area(box, stick) for stick in sticks), bars[index]
        assert not any(share_area(box, other) for other in boxes[:index]), bars[index]
        assert inside[0] <= box[0]
        assert box[2] <= inside[2]


def test_a_comparison_is_named_that_way(drawn):
    costs = {"H8": 1.0, "L2,H6": 0.8, "H6,L2": 0.801, "H3,L2,H3": 0.802, "L8": 0.3}
    entries = tuple(
        SimpleNamespace(
            name=name,
            scores=SimpleNamespace(gen_ppl=150.0 + place, gen_ppl_ci95=(140.0 + place, 160.0 + place), num_samples=8),
            result=SimpleNamespace(schedule=ModelSchedule.parse(name), flops=SimpleNamespace(executed=cost)),
        )
        for place, (name, cost) in enumerate(costs.items())
    )
    comparison = SimpleNamespace(
        entries=entries, schedules=entries, reference=entries[0], temperatures=(1.0,), models=("H", "L")
    )
    quality = drawn(comparison_figure, "render_comparison", comparison).axes[0]
    boxes = named(quality)
    assert len(boxes) == len(costs)
    sticks = [path.get_window_extent().extents for bars in quality.containers for path in bars[2]]
    for index, box in enumerate(boxes):
        assert not any(share_area(box, other) for other in boxes[:index])
        assert not any(share_area(box, (left - 1, low, right + 1, high)) for left, low, right, high in sticks)


# Plans.


def wavy(num_steps=128):
    curve = (2 + np.sin(np.arange(num_steps) * 0.9)) * hump(num_steps) / num_steps
    return make_importance(make_path({"L": curve}, num_bins=num_steps))


PLANS = {
    "few runs": lambda: make_plan(pair_importance(64), Budget(light_fraction=0.25)),
    "many runs": lambda: make_plan(wavy(), Budget(light_fraction=0.4)),
    "bundled": lambda: make_plan(bundled_importance(), Budget(light_fraction=0.25)),
    "one step": lambda: make_plan(bundled_importance(), Budget(light_steps=1)),
    "most steps": lambda: make_plan(bundled_importance(), Budget(light_fraction=0.9)),
    "all steps": lambda: make_plan(bundled_importance(), Budget(light_fraction=1.0)),
    "three models": lambda: make_plan(trio_importance(64), Budget(saved=0.3)),
    "three models, much": lambda: make_plan(trio_importance(64), Budget(saved=0.7)),
    "nothing saved": lambda: make_plan(trio_importance(64), Budget(saved=0.0)),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_drawn_whole_and_named_beside_its_frontier(drawn, name):
    plan = PLANS[name]()
    figure = drawn(plan_figure, "render_plan", plan)
    trade, curve = figure.axes[:2]
    for axes in (trade, curve):
        title = extents(axes._left_title)
        assert title[2] <= figure.bbox.x1
        assert title[0] >= 0
    assert extents(trade._left_title)[2] < extents(curve._left_title)[0]
    boxes = named(trade)
    assert len(boxes) == 1 + len(plan.named)
    line = trade.lines[0].get_xydata()
    share = np.linspace(0, 1, 500)
    dense = np.column_stack([np.interp(share, np.linspace(0, 1, len(line)), line[:, column]) for column in (0, 1)])
    points = trade.transData.transform(dense)
    for index, (left, bottom, right, top) in enumerate(boxes):
        x, y = points.T
        assert not ((x > left) & (x < right) & (y > bottom) & (y < top)).any(), trade.texts[index].get_text()
        assert not any(share_area((left, bottom, right, top), other, slack=2) for other in boxes[:index])


# Searches.


@pytest.fixture(scope="module")
def searched():
    tokenizer = make_tokenizer()
    settings = SearchSettings(num_samples=8, length=8, seed=3, chunk=4, batch_size=4)
    space = SearchSpace.light_and_heavy(8, 4, 2)
    run = search_schedules(
        make_pair(tokenizer), space, make_judge(tokenizer), settings, plan=ModelSchedule.parse("H1,L1,H3,L3")
    )
    return finish(run)[1]


def words(figure):
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_the_legend_has_no_star_that_is_not_drawn(drawn, searched):
    text = words(drawn(search_figure, "render_search", searched))
    assert "★" not in text
    assert "No cell is the planner's choice, H1,L1,H3,L3" in text


def test_the_star_that_is_drawn_is_explained(drawn, searched):
    cell = next(entry for entry in searched.entries if "space" in entry.origins)
    planner = PlannerRank("plan", str(cell.schedule), cell.rank, cell.rank_range, None, 7)
    figure = drawn(search_figure, "render_search", replace(searched, planner=planner))
    assert "★  the planner's choice" in words(figure)
    assert any(line.get_marker() == "*" for line in figure.axes[0].lines)


def test_the_lowest_is_a_cell_or_is_said_to_be_none(drawn, searched):
    others = [entry for entry in searched.ranked if "space" in entry.origins]
    plan = next(entry for entry in searched.ranked if entry.origins == ("plan",))
    behind = [replace(entry, rank=place) for place, entry in enumerate((plan, *others), 1)]
    result = replace(searched, entries=(*behind, *searched.beside))
    assert "solid" not in words(drawn(search_figure, "render_search", result))
    first = [replace(entry, rank=place) for place, entry in enumerate((*others, plan), 1)]
    result = replace(searched, entries=(*first, *searched.beside))
    assert "solid: lowest" in words(drawn(search_figure, "render_search", result))


# Importance.


def test_legends_lie_on_no_curve(drawn):
    for importance in (bundled_importance(), trio_importance(32)):
        figure = drawn(importance_figure, "render_importance", importance)
        for axes in figure.axes:
            legend = extents(axes.get_legend())
            assert not share_area(legend, axes.bbox.extents)
            assert not any(share_area(legend, extents(label)) for label in axes.get_xticklabels())
            assert legend[1] >= 0
