"""Fig. 4: the four cells of an architecture as drawings, one arrow for each edge that was kept.

Arrows bend around nodes and each other, and labels stand where they cover least; both are found by trying, so that any
architecture and number of nodes stays readable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latencykit.architecture import Network
from latencykit.errors import InputError
from latencykit.primitives import ZERO
from latencykit.space import CELL_TYPES, Architecture, CellType, cell_edges, source_name
from nas.figures import INK, MUTED, OPERATION_COLORS, operation_kind, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES: dict[CellType, str] = {
    "down": "Down cell",
    "up": "Up cell",
    "contracting": "Contracting cell",
    "non_scaling": "Non-scaling cell",
}
OUTPUT = "output"

_NODE_RADIUS = 0.36
_BENDS = (0.0, 0.1, -0.1, 0.2, -0.2, 0.32, -0.32, 0.46, -0.46, 0.6, -0.6)
_SAMPLES = 41
_LABEL_HEIGHT, _CHARACTER_WIDTH = 0.34, 0.155  # of a label in the drawing's units

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CellArrow:
    """An arrow in a cell: a kept edge with its primitive, or one of the fixed ones to the output with "" for it."""

    source: str
    target: str
    primitive: str


@dataclass(frozen=True, eq=False)
class _Route:
    """An arrow with the points (N, 2) of its curve."""

    arrow: CellArrow
    curve: Points
    control: Points


def cell_arrows(architecture: Architecture, cell_type: CellType) -> list[CellArrow]:
    """The kept edges of a cell, then what is summed to its output; deleted edges are left out."""
    edges = cell_edges(cell_type, architecture.macro.cell_nodes)
    arrows = [
        CellArrow(source_name(cell_type, edge.source), f"node{edge.node}", primitive)
        for edge, primitive in zip(edges, architecture.choices[cell_type], strict=True)
        if primitive != ZERO
    ]
    arrows += [CellArrow(f"node{node}", OUTPUT, "") for node in range(architecture.macro.cell_nodes)]
    if cell_type in ("contracting", "non_scaling"):
        arrows.append(CellArrow("s", OUTPUT, ""))  # the residual path
    return arrows


def cells_figure(network: Network, title: str = "") -> Figure:
    """The four cells in one figure with a legend.

    Raises:
        InputError: a hand-made pair, which has no cells.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if not isinstance(network, Architecture):
        raise InputError("cells: a hand-made pair has no cells; give the architecture.json of a searched network.")
    figure = Figure(figsize=(13, 8.2), dpi=130, layout="constrained")
    used: set[str] = set()
    for axes, cell_type in zip(figure.subplots(2, 2).ravel(), CELL_TYPES, strict=True):
        arrows = cell_arrows(network, cell_type)
        used |= {operation_kind(arrow.primitive) for arrow in arrows if arrow.primitive}
        _draw_cell(axes, cell_type, arrows, network.macro.cell_nodes)
    handles = [
        *(Line2D([], [], color=color, lw=2.2, label=kind) for kind, color in OPERATION_COLORS.items() if kind in used),
        Line2D([], [], color=INK, lw=3, label="thick: halves or doubles the resolution"),
        Line2D([], [], color=MUTED, lw=1.2, ls=(0, (4, 3)), label="summed to the output"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
    if title:
        figure.suptitle(title, fontsize=12, color=INK)
    return figure


def draw_cells(network: Network, path: Path, title: str = "") -> None:
    """Write the cells to `path`, SVG or PNG by its ending.

    Raises:
        InputError: a hand-made pair, which has no cells, or another ending.
    """
    save_figure(cells_figure(network, title), path)


def _positions(cell_type: CellType, nodes: int) -> dict[str, tuple[float, float]]:
    """Where each source, node and the output stands: inputs left, nodes above and below in turn, the last near 0."""
    two_inputs = source_name(cell_type, 1) == "s1"
    places = {"s0": (0.0, 1.5), "s1": (0.0, -1.5)} if two_inputs else {"s": (0.0, 0.0)}
    for node in range(nodes):
        x = 3.0 + 2.5 * node
        places[f"node{node}"] = (x, 0.25 if node == nodes - 1 and node else 1.6 if node % 2 == 0 else -1.6)
    places[OUTPUT] = (3.0 + 2.5 * nodes, 0.0)
    return places


def _routes(arrows: Sequence[CellArrow], places: dict[str, tuple[float, float]]) -> list[_Route]:
    """Bend the arrows one after the other, short ones first, each the way that disturbs least of what lies there."""
    points = {name: np.array(place) for name, place in places.items()}

    def length(arrow: CellArrow) -> float:
        return float(np.hypot(*(points[arrow.target] - points[arrow.source])))

    routes: list[_Route] = []
    for arrow in sorted(arrows, key=lambda a: (not a.primitive, length(a))):
        others = [point for name, point in points.items() if name not in (arrow.source, arrow.target)]
        options = [(_bow(arrow, points[arrow.source], points[arrow.target], bend), bend) for bend in _BENDS]
        routes.append(min(options, key=lambda option: _route_cost(option[0], option[1], others, routes))[0])
    return routes


def _bow(arrow: CellArrow, start: Points, end: Points, bend: float) -> _Route:
    """A quadratic Bézier curve from rim to rim whose middle lies `bend` / 2 of the length off the straight line."""
    along = end - start
    control = (start + end) / 2 + bend * np.array([-along[1], along[0]])
    start = start + _NODE_RADIUS * (control - start) / np.hypot(*(control - start))
    end = end + (_NODE_RADIUS + 0.06) * (control - end) / np.hypot(*(control - end))
    t = np.linspace(0, 1, _SAMPLES)[:, None]
    return _Route(arrow, (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end, control)


def _route_cost(route: _Route, bend: float, nodes: Sequence[Points], drawn: Sequence[_Route]) -> float:
    cost = 1.2 * abs(bend)
    for node in nodes:
        clearance = float(np.hypot(*(route.curve - node).T).min())
        cost += 40.0 * (clearance < _NODE_RADIUS + 0.12) + max(0.0, _NODE_RADIUS + 0.5 - clearance)
    for other in drawn:
        gaps = np.hypot(*(route.curve[4:-4, None] - other.curve[None, 4:-4]).transpose(2, 0, 1)).min(axis=1)
        cost += 1.5 * float((gaps < 0.22).mean()) + 0.1 * float(gaps.min() < 0.08)
    return cost


def _label_places(
    routes: Sequence[_Route], places: dict[str, tuple[float, float]]
) -> Iterator[tuple[_Route, Points, float]]:
    """Middle and width of each label, on its own curve, clear of nodes, other labels and other curves."""
    boxes: list[tuple[Points, float]] = []
    nodes = [np.array(place) for place in places.values()]
    labelled = [route for route in routes if route.arrow.primitive]
    for route in sorted(labelled, key=lambda r: float(np.hypot(*(r.curve[-1] - r.curve[0])))):
        width = _CHARACTER_WIDTH * len(_words(route.arrow.primitive)) + 0.16
        rest = [other.curve for other in routes if other is not route]

        def cost(index: int, curve: Points = route.curve, width: float = width, rest: list[Points] = rest) -> float:
            x, y = curve[index]
            total = 0.02 * abs(index - _SAMPLES // 2)
            for (bx, by), other in boxes:
                overlap_x = (width + other) / 2 - abs(x - bx)
                overlap_y = _LABEL_HEIGHT * 1.15 - abs(y - by)
                total += 60 * max(0.0, overlap_x) * max(0.0, overlap_y)
            for nx, ny in nodes:
                beside = max(abs(x - nx) - width / 2, 0.0), max(abs(y - ny) - _LABEL_HEIGHT / 2, 0.0)
                total += 20 * max(0.0, _NODE_RADIUS + 0.08 - math.hypot(*beside))
            for points in rest:
                inside = (abs(points[:, 0] - x) < width / 2) & (abs(points[:, 1] - y) < _LABEL_HEIGHT / 2)
                total += 0.12 * float(inside.sum())
            return total

        best = min(range(4, _SAMPLES - 4), key=cost)
        boxes.append((route.curve[best], width))
        yield route, route.curve[best], width


def _words(primitive: str) -> str:
    """A primitive as a label says it: `down_separable_conv` is `down separable`."""
    words = primitive.replace("_", " ")
    return words.removesuffix(" conv") if operation_kind(primitive) in ("dilated", "separable") else words


def _draw_cell(axes: Axes, cell_type: CellType, arrows: Sequence[CellArrow], nodes: int) -> None:
    from matplotlib.patches import Circle, FancyArrowPatch
    from matplotlib.path import Path as Curve

    places = _positions(cell_type, nodes)
    routes = _routes(arrows, places)
    for route in routes:
        fixed = not route.arrow.primitive
        color = MUTED if fixed else OPERATION_COLORS[operation_kind(route.arrow.primitive)]
        scaled = route.arrow.primitive.startswith(("down_", "up_")) or route.arrow.primitive.endswith("_pool")
        curve = Curve([route.curve[0], route.control, route.curve[-1]], [Curve.MOVETO, Curve.CURVE3, Curve.CURVE3])
        axes.add_patch(
            FancyArrowPatch(
                path=curve, arrowstyle="-|>", mutation_scale=13 if not fixed else 9, color=color,
                lw=1.1 if fixed else 2.8 if scaled else 1.6, ls=(0, (4, 3)) if fixed else "-",
                zorder=1 if fixed else 2, capstyle="butt", joinstyle="miter",
            )
        )  # fmt: skip
    for route, (x, y), _ in _label_places(routes, places):
        color = OPERATION_COLORS[operation_kind(route.arrow.primitive)]
        box = {"boxstyle": "round,pad=0.18", "fc": "white", "ec": color, "lw": 0.7}
        axes.text(
            x,
            y,
            _words(route.arrow.primitive),
            fontsize=8.5,
            color=INK,
            ha="center",
            va="center",
            bbox=box,
            zorder=4,
        )
    for name, place in places.items():
        inner = name.startswith("node")
        face = "#e9eef4" if inner else "#fdf3df" if name != OUTPUT else "#e6f2ea"
        axes.add_patch(Circle(place, _NODE_RADIUS, fc=face, ec=INK, lw=1.1, zorder=3))
        text = name.removeprefix("node") if name != OUTPUT else "+"
        axes.text(*place, text, ha="center", va="center", fontsize=10 if name != OUTPUT else 14, color=INK, zorder=5)
    x, y = places[OUTPUT]
    axes.text(x, y - 0.62, OUTPUT, ha="center", va="center", fontsize=8.5, color=INK)
    curves = np.concatenate([route.curve for route in routes])
    low, high = min(curves[:, 1].min(), -1.6), max(curves[:, 1].max(), 1.6)
    axes.set(xlim=(-0.7, x + 0.8), ylim=(low - 0.6, high + 0.6), aspect="equal")
    axes.set_axis_off()
    axes.set_title(TITLES[cell_type], fontsize=11, loc="left", color=INK)
