"""A run's own log: its last lines, then what comes, and no more is read than is shown."""

from __future__ import annotations

from pathlib import Path

from server.runs.run_log import log_lines


def test_a_log_is_followed_from_its_last_lines_to_the_end_of_the_run(tmp_path):
    log, asked = tmp_path / "run.log", 0

    def over() -> bool:
        nonlocal asked
        asked += 1
        with log.open("a") as file:
            file.write(f"line {asked}\nhalf a li" if asked == 4 else f"line {asked}\n")
        return asked == 4

    log.write_text("old 1\nold 2\nold 3\n")
    assert list(log_lines(tmp_path, last=2, until=over, poll_s=0)) == ["old 3", *(f"line {n}" for n in (1, 2, 3, 4))]
    assert list(log_lines(tmp_path, last=1, until=lambda: True)) == ["line 4"]


def test_of_a_long_log_no_more_is_read_than_is_shown(tmp_path, monkeypatch):
    """A week's log has gigabytes; --follow looked at all of it twice a second."""
    read = 0
    real = Path.open

    def counting(path: Path, mode: str = "r") -> object:
        nonlocal read
        file = real(path, mode)
        take = file.read

        class Counted:
            def __enter__(self) -> Counted:
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

            def read(self, size: int) -> bytes:
                nonlocal read
                read += size
                return take(size)

            def __iter__(self) -> object:
                nonlocal read
                for line in file:
                    read += len(line)
                    yield line

            def __getattr__(self, name: str) -> object:
                return getattr(file, name)

        return Counted()

    line = "x" * 99 + "\n"
    (tmp_path / "run.log").write_text(line * 100_000)
    turns = iter([False] * 20 + [True])
    monkeypatch.setattr(Path, "open", counting)
    assert len(list(log_lines(tmp_path, last=50, until=lambda: next(turns), poll_s=0))) == 50
    assert read < 200_000
    assert list(log_lines(tmp_path, last=2_000, until=lambda: True)) == [line.rstrip()] * 2_000
    assert list(log_lines(tmp_path, last=0, until=lambda: True)) == []


def test_a_log_that_was_emptied_is_followed_from_its_beginning(tmp_path):
    log, asked = tmp_path / "run.log", 0

    def over() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            log.write_text("new\n")
        return asked == 2

    log.write_text("old 1\nold 2\n")
    assert list(log_lines(tmp_path, last=9, until=over, poll_s=0)) == ["old 1", "old 2", "new"]
