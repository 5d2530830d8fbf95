"""Figures: texts of any kind, plain numbers at the axes, and what each panel of a study shows."""

import runpy
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import pytest
from evaluations import study_summary

from cdm.datasets import Sample
from cdm.evaluation import plots
from cdm.evaluation.plots import (
    apart,
    draw_found_target,
    plot_evaluation,
    plot_loss,
    plot_study,
    save,
    short_line,
    study_panels,
)

TEXTS = (
    r"$\frac$",
    "$x^2",
    "a $ b $ c",
    "\x00\x01\x1b[31m",
    "\u202e\u0627\u062c\u0644\u0633",
    "x" * 300,
    "\ud800",
    "line\nbreak\u2028",
    "",
)


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", TEXTS)
def test_titles_labels_and_legends_show_any_text(text, tmp_path):
    figure, axes = plt.subplots()
    axes.plot([1, 2], label=short_line(text) or "none")
    axes.set_title(short_line(text))
    axes.set_xlabel(short_line(text))
    axes.set_xticks([0], [short_line(text)])
    axes.legend()
    assert save(figure, tmp_path / "figure.png") == "figure.png"
    assert is_png(tmp_path / "figure.png")


def test_a_matplotlibrc_of_the_reader_changes_no_figure():
    theirs = {"text.usetex": True, "savefig.format": "pdf", "figure.figsize": (1, 1)}
    with matplotlib.rc_context(theirs):
        runpy.run_path(plots.__file__)
        ours = {key: matplotlib.rcParams[key] for key in [*theirs, "text.parse_math"]}
    assert ours == {key: matplotlib.rcParamsDefault[key] for key in theirs} | {
        "text.parse_math": False
    }


def test_a_text_becomes_one_short_visible_line():
    assert short_line("  sit\n\ton\u2028it ") == r"sit on\u2028it"
    assert short_line("\x1b[31mred") == r"\u001b[31mred"
    assert short_line("far " * 100, most=10) == "far far f…"


def interval(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "num_items": 3}


def group(kind, name, **measures):
    return {
        "kind": kind,
        "name": name,
        "num_items": 3,
        "measures": {key: interval(value) for key, value in measures.items()},
    }


def test_an_evaluation_is_drawn_as_far_as_it_was_measured(tmp_path):
    measures = {"found_target": 0.5, "found_target_chance": 0.2, "pelvis_point_error": 0.4}
    measures |= {"TKCO@10": 0.3, "target/TKCO@10": 0.6, "TKCO@100": 0.5}
    groups = [group("all", "all", **measures), group("action", r"$\frac$", **measures)]
    measured = SimpleNamespace(
        samples=[Sample("A", "0", 0, "sit on it"), Sample("A", "1", 0, "")],
        rows=[{"pelvis_point_error": 0.1}, {"pelvis_point_error": 3.0}],
    )
    drawn = plot_evaluation({"groups": groups}, measured, tmp_path)
    assert drawn == ["found_target.png", "pelvis_point_error.png", "localisation.png"]
    assert all(is_png(tmp_path / name) for name in drawn)
    nothing = plot_evaluation({"groups": [group("all", "all")]}, measured, tmp_path)
    assert nothing == []


def test_bars_are_the_groups_that_have_the_measure():
    found = {"found_target": 0.5, "found_target_chance": 0.2}
    groups = [group("all", "all", **found), group("set", "A", **found), group("action", "sit")]
    figure = draw_found_target(groups)
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["all\n3 items"]
    assert [bar.get_height() for bar in axes.patches] == [0.5]
    plt.close(figure)


def test_panels_show_what_the_rule_looks_at_between_its_limits():
    summary = study_summary()
    diversity, energy, outside = study_panels(summary)
    limits, setting = summary["limits"], summary["settings"][-1]
    assert diversity.band == (1 - limits["diversity"], 1 + limits["diversity"])
    assert diversity.value(setting)[0] == pytest.approx(setting["diversity_ratio"])
    assert energy.band[1] == limits["energy_distance"]
    assert energy.value(setting)[1] == setting["energy_distance"]["low"]
    assert outside.value(setting)[0] == len(setting["outside"])


def figure_of(monkeypatch, draw, *arguments):
    """The figure that a function would save, with all of its texts made."""
    figures = []
    monkeypatch.setattr("cdm.evaluation.plots.save", lambda figure, path: figures.append(figure))
    draw(*arguments)
    figures[0].canvas.draw()
    return figures[0]


def test_a_study_is_drawn_with_a_line_for_each_sampler_and_grid(monkeypatch):
    summary = study_summary()
    figure = figure_of(monkeypatch, plot_study, summary, None)
    lines = {each.get_label(): each for each in figure.axes[1].containers}
    assert set(lines) == {"ddpm, even", "dpmpp_2m, even"}
    ddpm = [s for s in summary["settings"] if (s["method"], s["role"]) == ("ddpm", "compared")]
    points = sorted((s["steps"], s["energy_distance"]["value"]) for s in ddpm)
    assert [tuple(point) for point in lines["ddpm, even"][0].get_xydata()] == points
    plt.close(figure)


def test_numbers_at_the_axes_are_plain(monkeypatch):
    """A logarithmic axis would show them as mathematics, which no text of a figure may be."""
    curve = [[step, 10.0 ** -(step / 300)] for step in range(1, 1000, 50)]
    for draw, content in ((plot_study, study_summary()), (plot_loss, curve)):
        figure = figure_of(monkeypatch, draw, content, None)
        texts = [
            label.get_text()
            for axes in figure.axes
            for label in (*axes.get_xticklabels(), *axes.get_yticklabels())
        ]
        assert any(texts) and not [text for text in texts if "$" in text]
        plt.close(figure)


def test_the_loss_is_written_as_one_png(tmp_path):
    plot_loss([[1, 0.5], [2, 0.25]], tmp_path / "loss.png")
    assert is_png(tmp_path / "loss.png")
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]


def test_ticks_of_a_logarithmic_axis_stand_apart():
    assert apart({100, 8, 10, 12, 14, 16, 18, 20}) == [8, 10, 12, 16, 20, 100]
