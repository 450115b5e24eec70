"""A folder has one owner at a time, said by name; the lock goes with its holder, however that ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedlora.processes.ownership import sole_owner
from fedlora.settings import SettingsError

HOLD = """
import sys, time
from pathlib import Path
from fedlora.processes.ownership import sole_owner
with sole_owner(Path(sys.argv[1]), "the agent of a"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_owner_is_told_who_the_first_is_and_takes_over_after_a_kill(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        for _ in range(2):
            with (
                pytest.raises(SettingsError, match=rf"by the agent of a, process {first.pid}, since 2.*Stop that"),
                sole_owner(tmp_path, "another"),
            ):
                pass
        first.send_signal(signal.SIGKILL)
        first.wait()
    with sole_owner(tmp_path, "another"):
        assert "another" in (tmp_path / "owner.lock").read_text()


def test_a_lock_is_not_inherited_by_what_its_holder_starts(tmp_path):
    with sole_owner(tmp_path, "a"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with sole_owner(tmp_path, "b"):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_label_that_cannot_be_read_is_said_so(tmp_path):
    with sole_owner(tmp_path, "a"):
        (tmp_path / "owner.lock").write_text("")
        with pytest.raises(SettingsError, match=r"another process \(unknown\)"), sole_owner(tmp_path, "b"):
            pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="cannot be opened"), sole_owner(Path(tmp_path / "no"), "a"):
        pass
