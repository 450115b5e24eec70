"""An evaluation in the layout of lm-evaluation-harness' results file, which leaderboards and plots read.

    results[task]["token_accuracy,none"], ["token_accuracy_stderr,none"]        none: no filter was applied

Its name for a number stands first and is the task's own; what the harness has no place for stands under `fedlora`. The
keys and their types are those of `lm_eval/result_schema.py`, version 0.4.13.
"""

from __future__ import annotations

import re
import time
from typing import Any

from fedlora.models.quantised.scheme import scheme_of
from fedlora.protocol.software import versions
from fedlora.results.judging.evaluation import Evaluated
from fedlora.results.judging.figures import Figure
from fedlora.results.opened import Opened

FILTER = "none"
VERSION = 1.0
"""Of what is measured: another one where figures of the same rows are no longer comparable."""


def harness(opened: Opened, found: Evaluated, *, name: str) -> dict[str, Any]:
    """`name`: of the file, as the harness' task."""
    task = re.sub(r"\W+", "_", name) or "rows"
    better = {metric.name: metric.larger_is_better for metric in found.metrics}
    known = dict(found.figures)
    base = opened.source.about.base
    whole = found.rows + sum(found.left_out.values())
    arguments = f"pretrained={base.place},peft={opened.source.name},{held_as(base.load_dtype)}"
    entries = [entry for key, one in known.items() for entry in keys(key, one)]
    listed = [{"metric": key, "higher_is_better": better.get(key, True)} for key in known]
    return {
        "results": {task: {"name": task, "alias": task, "sample_len": found.rows, **dict(entries)}},
        "group_subtasks": {task: []},
        "configs": {task: {"task": task, "num_fewshot": 0, "metric_list": listed, "metadata": {"version": VERSION}}},
        "versions": {task: VERSION},
        "n-shot": {task: 0},
        "higher_is_better": {task: {one["metric"]: one["higher_is_better"] for one in listed}},
        "n-samples": {task: {"original": whole, "effective": found.rows}},
        "config": {
            "model": "fedlora", "model_args": arguments, "batch_size": "1", "device": opened.on.device, "limit": None,
            "model_dtype": opened.on.dtype, "model_revision": base.revision or "",
        },
        "date": time.time(),
        "transformers_version": versions()["transformers"],
        "model_source": "fedlora",
        "model_name": base.place,
        "fedlora": found.as_json(),
    }  # fmt: skip


def held_as(load_dtype: str) -> str:
    """The harness' arguments that load a base as it was held.

    >>> held_as("bfloat16"), held_as("int8")
    ('dtype=bfloat16', 'dtype=float32,load_in_8bit=True')
    """
    scheme = scheme_of(load_dtype)
    if scheme is None:
        return f"dtype={load_dtype}"
    return ",".join(["dtype=float32", *(f"{name}={value}" for name, value in scheme.arguments.items())])


def keys(name: str, found: Figure) -> list[tuple[str, Any]]:
    """A figure's two entries; the harness writes N/A where there is no error."""
    error = "N/A" if found.error is None else found.error
    return [(f"{name},{FILTER}", found.value), (f"{name}_stderr,{FILTER}", error)]
