"""What leaves a site whose own files are in the way of every task: a code."""

from __future__ import annotations

import pytest
from flwr.app import Context, RecordDict

from client.deployed import train


def test_the_text_of_a_site_s_settings_does_not_leave_it(tmp_path, monkeypatch, caplog):
    """Flower sends an exception's text to the coordinator, with an executor of its own."""
    (tmp_path / "client.yaml").write_text("site: north\npatients_of_ward_7: yes\n")
    monkeypatch.setenv("FEDLORA_SITE", str(tmp_path / "client.yaml"))
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    with pytest.raises(RuntimeError, match=r"^settings$") as caught:
        train(None, context)
    assert caught.value.__cause__ is None
    assert "patients_of_ward_7" in caplog.text
