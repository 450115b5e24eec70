"""Colours of charts, light and dark. The pages' own colours are in assets/fedlora.css; the two agree."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Palette:
    """`lines` are distinguishable with every common form of colour blindness (Okabe and Ito, 2008)."""

    text: str
    muted: str
    grid: str
    surface: str
    lines: tuple[str, ...]
    outcomes: dict[str, str]


LIGHT = Palette(
    text="#171a2b",
    muted="#4d5370",
    grid="#e2e5f0",
    surface="#ffffff",
    lines=("#4338ca", "#d55e00", "#00795b", "#b0508a", "#0072b2", "#8a6d00", "#5b5f77", "#c2185b"),
    outcomes={"trained": "#2e9e7a", "late": "#e69f00", "refused": "#7c5cc4", "failed": "#cf3b3b"},
)
DARK = Palette(
    text="#e8eaf6",
    muted="#aab0cf",
    grid="#2a2f48",
    surface="#181c2e",
    lines=("#a5b4fc", "#ff9d5c", "#4fd1a5", "#f0a3cf", "#6ec1ff", "#e5c454", "#b8bcd4", "#ff8fab"),
    outcomes={"trained": "#3cbf95", "late": "#f2b632", "refused": "#a98ff0", "failed": "#f06a6a"},
)


def palette(*, dark: bool) -> Palette:
    return DARK if dark else LIGHT
