"""What all pictures share: colours, axes, and how one is written.

Every picture is a `matplotlib.figure.Figure`, made without pyplot, so that nothing global is touched.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from latencykit.errors import InputError
from latencykit.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
INK, MUTED = "#333333", "#8a949e"

OPERATION_COLORS: Mapping[str, str] = {
    "conv": "#2f6db3",
    "dilated": "#d9822b",
    "separable": "#3a9d68",
    "max pool": "#8250b5",
    "avg pool": "#c2569b",
    "identity": "#6b7680",
    "zero": "#d5dade",
}
"""One colour for each kind of operation in all pictures, whatever it does to the resolution."""

SERIES_COLORS = ("#2f6db3", "#d9822b", "#3a9d68", "#8250b5")


def operation_kind(primitive: str) -> str:
    """Kind of a primitive, a key of `OPERATION_COLORS`: `down_dilated_conv` is `dilated`."""
    kinds = {"dilated_conv": "dilated", "separable_conv": "separable", "max_pool": "max pool", "avg_pool": "avg pool"}
    base = primitive.removeprefix("down_").removeprefix("up_")
    kind = kinds.get(base, base)
    if kind not in OPERATION_COLORS:
        raise InputError(f"figures: no colour for the primitive {primitive!r}; add its kind to OPERATION_COLORS.")
    return kind


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG by the file's ending, wholly or not at all; equal figures give equal bytes.

    Raises:
        InputError: another ending.
    """
    from matplotlib import rc_context

    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise InputError(f"{path}: figures are written as .png or .svg.")
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "nas"}):  # ids by content, not at random
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, metadata=metadata, facecolor="white")
    write_bytes(path, buffer.getvalue())


def tidy(axes: Axes) -> None:
    """No box around the data, a faint grid behind it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=8, length=3, which="both")
    axes.grid(color="#eceff2", lw=0.8)
    axes.set_axisbelow(True)
