"""Figures of the report as SVG inside the page, in the page's colours, dark or light.

matplotlib writes colours as numbers. So figures are drawn in stand-in colours, and each of these
is replaced by the page's CSS variable.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from markupsafe import Markup

from cdm.evaluation import plots
from cdm.evaluation.study_tables import is_old

NUM_SERIES = 8  # colours of lines that page.css defines
# Stand-in colour -> CSS variable. No figure uses these colours otherwise.
STAND_INS = {"#010203": "--ink", "#010204": "--soft", "#010205": "--line"} | {
    f"#0102{10 + number:02}": f"--series{number}" for number in range(1, NUM_SERIES + 1)
}
INK, SOFT, LINE, *SERIES = STAND_INS
STYLE = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.prop_cycle": plt.cycler(color=SERIES),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "grid.color": SOFT,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be searched, and the page's font is used
    "svg.hashsalt": "contact maps",  # the same page every time
}
WIDTH, HEIGHT = 5.0, 3.5  # inches


def found_target(groups: Sequence[Mapping[str, Any]]) -> Markup:
    """Share of maps at the right object, beside chance."""
    with matplotlib.rc_context(STYLE):
        return _svg(plots.draw_found_target(groups), "found")


def pelvis_errors(errors_by_action: Sequence[tuple[str, float]]) -> Markup:
    """Distribution of the pelvis point's error; arguments as `plots.draw_pelvis_errors`."""
    with matplotlib.rc_context(STYLE):
        return _svg(plots.draw_pelvis_errors(errors_by_action), "errors")


def overlap(measures: Mapping[str, Any], family: str) -> Markup:
    """TKCO or IoU over its parameter."""
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT))
        plots.draw_family(axes, measures, family)
        axes.set_ylabel(family)
        return _svg(figure, family)


def study(summary: Mapping[str, Any]) -> list[Markup]:
    """The panels of a study, one figure each; none of a study by an older rule."""
    if is_old(summary):
        return []
    figures = []
    for number, panel in enumerate(plots.study_panels(summary)):
        with matplotlib.rc_context(STYLE):
            figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT))
            plots.draw_panel(axes, panel, summary)
            axes.legend(fontsize=8)
            figures.append(_svg(figure, f"study{number}"))
    return figures


def _svg(figure, name: str) -> Markup:
    """A figure as an <svg> element.

    Args:
        name: goes before each id, so that no two figures of a page share one.
    """
    content = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(content, format="svg", bbox_inches="tight", transparent=True, metadata=nothing)
    plt.close(figure)
    text = content.getvalue().decode("utf-8")
    # A head that HTML takes: no XML, no namespaces, no style of its own. The page decides on the
    # width, up to the size at which letters are as large as drawn.
    box = re.findall(r'viewBox="(0 0 [\d.]+ [\d.]+)"', text)[0]
    width = float(box.split()[2])
    _, _, text = text.partition("</defs>")  # behind the style
    text = f'<svg role="img" viewBox="{box}" style="max-width: {width:.0f}pt">{text}'
    # Ids, and what refers to them; then colours.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for color, variable in STAND_INS.items():
        text = text.replace(color, f"var({variable})")
    return Markup(text)
