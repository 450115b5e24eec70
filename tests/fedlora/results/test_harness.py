"""lm-evaluation-harness itself, where it is installed (pip install lm-eval): the documented task, on our adapter and
our file, comes to our own figures, and our results file has its keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fedlora.results.runs import typed

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install lm-eval")
pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.filterwarnings("ignore")]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "using_results.md"


def test_its_accuracies_of_the_documented_task_are_ours_and_our_file_has_its_keys(choices, tmp_path, monkeypatch):
    from lm_eval import result_schema
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    run, file = choices
    task = PAGE.read_text().split("```text\n# questions.yaml\n")[1].split("```")[0]
    (tmp_path / "questions.yaml").write_text(task.replace("/data/questions.jsonl", str(file)))
    ours = json.loads(typed("eval", run, file, "--json").stdout)
    arguments = f"pretrained={run.parent / 'llama'},peft={run / 'adapter'},dtype=float32"
    theirs = lm_eval.simple_evaluate(
        model="hf", model_args=arguments, tasks=["questions"], device="cpu", batch_size=4, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
    )  # fmt: skip
    own, found = ours["results"]["sums"], theirs["results"]["questions"]
    assert found["acc,none"] == pytest.approx(own["choice_accuracy,none"], abs=1e-12)
    assert found["acc_norm,none"] == pytest.approx(own["choice_length_accuracy,none"], abs=1e-12)
    assert found["acc,none"] != found["acc_norm,none"]
    known = set(result_schema.EvalResults.__annotations__)
    assert set(ours) - known == {"fedlora"}
    assert set(ours["config"]) <= set(result_schema._EvalConfig.__annotations__)
    assert {"name", "alias", "sample_len"} <= own.keys() & found.keys()
    for part in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
        assert type(ours[part]["sums"]) is type(theirs[part]["questions"]), part
