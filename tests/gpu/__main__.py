"""Check and measure on one GPU, in at most eight minutes: every part within its time, every row written as it is found.

    python -m tests.gpu --device cuda --size full --out runs/gpu

Writes OUT/gpu.json after every row, and OUT/gpu.md; on a GPU docs/gpu.json and the figures of docs/gpu.md too. The exit
status is 1 where a check does not hold or a part fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.gpu import page
from tests.gpu.checks import checks
from tests.gpu.rounds import federated, wire
from tests.gpu.steps import steps
from tests.gpu.timed import Box
from tests.gpu.together import together

Part = Callable[[str, str, Box], Iterator[dict[str, Any]]]
PARTS: dict[str, tuple[Part, float]] = {
    "checks": (checks, 45.0),
    "steps": (steps, 210.0),
    "together": (together, 90.0),
    "wire": (wire, 40.0),
    "federated": (federated, 60.0),
}
"""Each with its seconds: 445 in all, of 480."""


def machine(device: str, size: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else platform.processor() or "cpu"
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {"device": device, "name": name, "size": size, "versions": versions, "date": time.strftime("%Y-%m-%d")}


def measured(device: str, size: str, out: Path, names: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {**machine(device, size), "parts": {}}
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        part, seconds = PARTS[name]
        rows: list[dict[str, Any]] = []
        found["parts"][name] = {"rows": rows}
        box = Box(seconds)
        try:
            for row in part(device, size, box):
                rows.append(row)
                print(f"{name}: {row}", flush=True)
                (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        except Exception as error:
            found["parts"][name]["failed"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        found["parts"][name]["seconds"] = round(seconds - box.left_s, 1)
        (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def stands(found: dict[str, Any]) -> bool:
    """Whether every check holds and no part failed."""
    parts = found["parts"].values()
    return not any("failed" in part for part in parts) and all(
        row.get("holds", True) for part in parts for row in part["rows"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    chosen = parser.parse_args()
    if torch.device(chosen.device).type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device; rehearse with: make gpu DEVICE=cpu SIZE=tiny")
    found = measured(chosen.device, chosen.size, chosen.out, chosen.parts)
    (chosen.out / "gpu.md").write_text(page.figures_of(found))
    if torch.device(chosen.device).type == "cuda" and chosen.size == "full" and chosen.parts == list(PARTS):
        page.record(found)
    sys.exit(0 if stands(found) else 1)


if __name__ == "__main__":
    main()
