"""A curve that grows while a run goes on: what `progress` of `fedlora.simulate` takes.

fedlora.simulate("six-airlines", progress=Curve())
"""

from __future__ import annotations

import io
import sys
from typing import Any

from fedlora.python.result import Round


class Curve:
    """In a notebook the picture is drawn anew after every round, in its own place; elsewhere every round is a line."""

    def __init__(self) -> None:
        self.rounds: list[Round] = []
        self._shown: Any = None

    def __call__(self, done: Round) -> None:
        self.rounds.append(done)
        shell: Any = sys.modules.get("IPython")
        if shell is None or shell.get_ipython() is None:
            score = "" if done.score is None else f"{done.metric} {done.score:.4f}, "
            print(f"round {done.number} of {done.count}: {score}{done.bytes_up / 1e3:.0f} kB up")
            return
        image = shell.display.Image(data=self._repr_png_())
        if self._shown is None:
            self._shown = shell.display.display(image, display_id=True)
        else:
            self._shown.update(image)

    def _repr_png_(self) -> bytes:
        """The rounds so far."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 2.6), layout="tight")
        axes = figure.subplots()
        known = [(done.number, done.score) for done in self.rounds if done.score is not None]
        axes.plot([number for number, _ in known], [score for _, score in known], "o-")
        axes.set(xlabel="round", ylabel=self.rounds[-1].metric, xlim=(0.5, self.rounds[-1].count + 0.5))
        content = io.BytesIO()
        figure.savefig(content, format="png")
        return content.getvalue()
