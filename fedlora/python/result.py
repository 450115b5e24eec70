"""What a run leaves, as values: the same figures as in its folder, which stays the truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlora.settings import SettingsError

if TYPE_CHECKING:
    from fedlora.python.loaded import Adapter


@dataclass(frozen=True)
class Round:
    """One round, as `progress` hears of it and as a result keeps it."""

    number: int
    count: int
    """Of the run's rounds."""
    metric: str
    """What the task's runs are compared by."""
    score: float | None
    """Its value on the shared test set; None in a round that does not evaluate, or where there is no one model."""
    loss: float | None
    """In nats."""
    trained: int
    """Clients whose update came in."""
    bytes_up: int
    bytes_down: int
    """Measured on the wire, of all clients."""
    aggregation_error: float | None
    """‖ΔW_ideal - ΔW_served‖ / ‖ΔW_ideal‖."""
    seconds: float
    record: Mapping[str, Any] = field(repr=False, compare=False)
    """The whole line of rounds.jsonl, every client's part in it."""

    @classmethod
    def of(cls, line: Mapping[str, Any], *, metric: str, count: int) -> Round:
        """From a line of rounds.jsonl."""
        quality, clients = line.get("evaluation") or {}, line["clients"]
        return cls(
            number=line["round"],
            count=count,
            metric=metric,
            score=quality.get(metric),
            loss=quality.get("loss"),
            trained=sum(client["outcome"] == "trained" for client in clients),
            bytes_up=sum(client["bytes_up"] for client in clients),
            bytes_down=sum(client["bytes_down"] for client in clients),
            aggregation_error=line["aggregation_error"],
            seconds=line["seconds"],
            record=line,
        )


@dataclass(frozen=True)
class Result:
    """A finished run."""

    folder: Path
    """Where its files are: summary.json, rounds.jsonl, config.yaml, curves.png, adapter/."""
    summary: Mapping[str, Any] = field(repr=False)
    """summary.json."""
    rounds: tuple[Round, ...] = field(repr=False)
    """In their order; of mode `alone`, whose clients are runs of their own, none."""

    @classmethod
    def read(cls, folder: Path) -> Result:
        """Of a run's folder; SettingsError where it holds no finished run."""
        try:
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        except OSError:
            raise SettingsError(f"{folder} contains no finished run (no summary.json).") from None
        file = folder / "rounds.jsonl"
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
        metric = summary.get("metric", "accuracy")
        return cls(folder, summary, tuple(Round.of(line, metric=metric, count=len(lines)) for line in lines))

    @property
    def metric(self) -> str:
        return str(self.summary.get("metric", "accuracy"))

    @property
    def score(self) -> float | None:
        """The metric's value on the shared test set."""
        found: float | None = self.summary.get("score")
        return found

    @property
    def epsilon(self) -> float | None:
        """Of the site that has spent most; None without privacy."""
        found: float | None = self.summary.get("epsilon_max")
        return found

    @property
    def adapter(self) -> Path:
        """The PEFT adapter's folder, which `peft.PeftModel.from_pretrained` loads."""
        return Path(self.summary["adapter_dir"])

    def load(self, *, base: str | None = None, device: str | None = None) -> Adapter:
        """The adapter in its base model (`fedlora.load`)."""
        from fedlora.python.loaded import load

        return load(self, base=base, device=device)

    def __str__(self) -> str:
        score = "not evaluated" if self.score is None else f"{self.metric} {self.score:.4f}"
        sent = f"{self.summary['bytes_up'] / 1e6:.2f} MB up, {self.summary['bytes_down'] / 1e6:.2f} MB down"
        return "\n".join([f"{score}, {sent}, {len(self.rounds)} rounds: {self.folder}", *self.summary["verdict"]])

    def _repr_png_(self) -> bytes | None:
        """A notebook shows the run's curves."""
        file = self.folder / "curves.png"
        return file.read_bytes() if file.exists() else None


@dataclass(frozen=True)
class Comparison:
    """Runs side by side, in the order given."""

    rows: tuple[Mapping[str, str], ...]
    """A method's figures by the names of their columns."""
    folder: Path | None
    """Where comparison.csv, .md and .png are; None where nothing was written."""

    def __str__(self) -> str:
        names = list(self.rows[0])
        lines = [names, ["---"] * len(names), *(list(row.values()) for row in self.rows)]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

    def _repr_markdown_(self) -> str:
        return str(self)
