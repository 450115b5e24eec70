"""The guarantees at the top of fedlora/privacy/ledger.py: durability, tamper, truncation, torn lines, locking."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import fedlora.privacy.ledger as ledger_module
from fedlora.privacy.chain import canonical, line_after
from fedlora.privacy.ledger import LedgerFiles, datasets, exclusive_ledger, read_ledger
from fedlora.privacy.refusal import Code, Refusal
from fedlora.privacy.signing import (
    SignatureError,
    load_key,
    load_or_create_key,
    public_text,
    require_signed,
    sign,
)
from fedlora.settings import SettingsError


@pytest.fixture
def files(tmp_path: Path) -> LedgerFiles:
    return LedgerFiles(tmp_path, "tickets")


@pytest.fixture
def key(tmp_path: Path):
    return load_or_create_key(tmp_path / "privacy" / "key.pem")


def write(files: LedgerFiles, key, count: int) -> None:
    for number in range(count):
        with exclusive_ledger(files, key) as ledger:
            ledger.append({"kind": "charge", "number": number})


def problem(files: LedgerFiles, key) -> str | None:
    return read_ledger(files, public_key=public_text(key)).problem


def numbers(files: LedgerFiles) -> list[int]:
    return [e.fields["number"] for e in read_ledger(files, public_key=None).entries if e.kind == "charge"]


def edit(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


def test_entries_stay_in_order_and_are_sound(files, key):
    write(files, key, 3)
    assert numbers(files) == [0, 1, 2]
    assert problem(files, key) is None
    assert datasets(files.site) == ["tickets"]


def test_every_append_is_synced_before_it_returns_and_the_anchor_after(files, key, monkeypatch):
    write(files, key, 1)
    order = []
    real_fsync, real_write = os.fsync, ledger_module.write_atomically
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(
        ledger_module, "write_atomically", lambda path, data: (order.append(path.name), real_write(path, data))[1]
    )
    with exclusive_ledger(files, key) as ledger:
        order.clear()
        ledger.append({"kind": "charge", "number": 1})
    assert order[:2] == ["fsync", "tickets.json"]
    assert "fsync" in order[2:]


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_changed_line_is_found_and_what_is_before_it_kept(files, key, line):
    write(files, key, 3)
    edit(files.ledger, lambda data: data.replace(b'"number":%d' % line, b'"number":%d' % (line + 5)))
    found = read_ledger(files, public_key=public_text(key))
    assert found.problem == f"line {line + 1} was changed: its digest does not match its content"
    assert [e.fields["number"] for e in found.entries] == list(range(line))
    assert found.torn_bytes == 0


def test_any_flipped_bit_in_ledger_or_anchor_is_found(files, key):
    write(files, key, 2)
    for path in (files.ledger, files.anchor):
        sound = path.read_bytes()
        for position in range(len(sound)):
            flipped = bytearray(sound)
            flipped[position] ^= 1 << (position % 8)
            path.write_bytes(flipped)
            assert problem(files, key) is not None, f"{path.name}, byte {position}"
        path.write_bytes(sound)
    assert problem(files, key) is None


def test_a_ledger_cut_at_any_byte_is_found(files, key):
    write(files, key, 2)
    sound = files.ledger.read_bytes()
    for length in range(len(sound)):
        files.ledger.write_bytes(sound[:length])
        assert problem(files, key) is not None, f"cut to {length} bytes"


def test_a_removed_line_is_found(files, key):
    write(files, key, 3)
    edit(files.ledger, lambda data: b"".join(data.splitlines(keepends=True)[::2]))
    assert problem(files, key) == "line 2 does not follow the line before it"


@pytest.mark.parametrize("left", [0, 1, 2])
def test_lines_cut_off_the_end_are_found(files, key, left):
    write(files, key, 3)
    edit(files.ledger, lambda data: b"".join(data.splitlines(keepends=True)[:left]))
    assert problem(files, key) == f"it was cut: {left} entries are left of 3"


def test_a_deleted_ledger_is_found(files, key):
    write(files, key, 2)
    files.ledger.unlink()
    assert problem(files, key) == "it was cut: 0 entries are left of 2"


def test_a_deleted_anchor_is_found(files, key):
    write(files, key, 2)
    files.anchor.unlink()
    assert problem(files, key) == "its anchor is missing"


def test_an_anchored_line_that_lost_its_end_is_a_cut_not_a_torn_write(files, key):
    write(files, key, 2)
    edit(files.ledger, lambda data: data[:-1])
    assert problem(files, key) == "it was cut: 1 entries are left of 2"


def test_a_rewritten_ledger_with_a_consistent_chain_is_found(files, key):
    write(files, key, 2)
    head, lines = "0" * 64, b""
    for number in (1, 2):
        entry, line = line_after(head, number, {"kind": "charge", "number": 9})
        head, lines = entry.digest, lines + line
    files.ledger.write_bytes(lines)
    assert problem(files, key) == "entry 2 is not the anchored one: the ledger was rewritten"
    forged = {"dataset": "tickets", "sequence": 2, "digest": head}
    files.anchor.write_bytes(canonical({**forged, "signature": "00" * 64}))
    assert problem(files, key) == "its anchor is not signed with this site's key"


@pytest.mark.parametrize("junk", [b"{}", b"[1]", b"not json"])
def test_a_line_that_is_no_entry_is_found(files, key, junk):
    write(files, key, 1)
    edit(files.ledger, lambda data: data + junk + b"\n")
    assert problem(files, key) == "line 2 is not an entry"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"sequence":"x","digest":1}'])
def test_an_unreadable_anchor_is_found(files, key, content):
    write(files, key, 1)
    files.anchor.write_bytes(content)
    assert problem(files, key) == "its anchor cannot be read"


def test_a_damaged_ledger_refuses_to_charge(files, key):
    write(files, key, 2)
    files.ledger.unlink()
    with pytest.raises(Refusal, match="it was cut") as caught:
        write(files, key, 1)
    assert caught.value.code is Code.LEDGER_DAMAGED
    assert not files.ledger.exists()


@pytest.mark.parametrize("keep", [1, 20, -1])
def test_a_torn_last_line_is_dropped_and_an_entry_says_so(files, key, keep):
    write(files, key, 2)
    before = files.ledger.read_bytes()
    chain = read_ledger(files, public_key=None)
    _, line = line_after(chain.head, 3, {"kind": "charge", "number": 2})
    files.ledger.write_bytes(before + line[:keep])
    torn = read_ledger(files, public_key=public_text(key))
    assert torn.problem is None
    assert torn.torn_bytes == len(line[:keep])
    write(files, key, 1)
    kinds = [entry.kind for entry in read_ledger(files, public_key=None).entries]
    assert kinds == ["charge", "charge", "repaired", "charge"]
    assert problem(files, key) is None


def test_a_crash_between_the_line_and_its_anchor_keeps_the_line(files, key, monkeypatch):
    write(files, key, 1)

    class Crash(BaseException):
        pass

    def crash(path, data):
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash), exclusive_ledger(files, key) as ledger:  # noqa: PT012
        patch.setattr(ledger_module, "write_atomically", crash)
        ledger.append({"kind": "charge", "number": 1})
    assert problem(files, key) is None
    write(files, key, 1)
    assert numbers(files) == [0, 1, 0]
    assert problem(files, key) is None


def test_more_than_one_entry_behind_the_anchor_is_found(files, key):
    write(files, key, 1)
    anchor = files.anchor.read_bytes()
    write(files, key, 2)
    files.anchor.write_bytes(anchor)
    assert problem(files, key) == "3 entries, but only 1 were anchored"


def test_a_ledger_cut_to_its_first_line_without_its_anchor_is_found(files, key):
    """One line without an anchor is no crash either: the anchor of the empty ledger comes before the first line."""
    write(files, key, 3)
    edit(files.ledger, lambda data: data.splitlines(keepends=True)[0])
    files.anchor.unlink()
    assert problem(files, key) == "its anchor is missing"


def test_a_crash_right_after_the_first_line_keeps_it(files, key, monkeypatch):
    writes = []
    real = ledger_module.write_atomically

    def second_is_lost(path, data):
        writes.append(path)
        if len(writes) == 2:
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(ledger_module, "write_atomically", second_is_lost)
    with pytest.raises(KeyboardInterrupt):
        write(files, key, 1)
    assert problem(files, key) is None
    assert numbers(files) == [0]


def charge_and_answer(files: LedgerFiles, key, task: str) -> None:
    with exclusive_ledger(files, key) as ledger:
        ledger.append({"kind": "charge", "task": task, "number": 0})
        files.answers.mkdir(exist_ok=True)
        files.answer(task).write_bytes(b"released")


def test_an_older_copy_of_ledger_and_anchor_is_found_by_the_answers_beside_it(files, key):
    charge_and_answer(files, key, "a" * 64)
    copies = {path: path.read_bytes() for path in (files.ledger, files.anchor)}
    charge_and_answer(files, key, "b" * 64)
    assert problem(files, key) is None
    for path, content in copies.items():
        path.write_bytes(content)
    found = problem(files, key)
    assert found == "it is an older copy: 1 answer(s) stored with it were never charged in it, such as bbbbbbbbbbbbbbbb"
    files.ledger.unlink()
    files.anchor.unlink()
    assert "it is an older copy: 2 answer(s)" in problem(files, key), "nor is a ledger that was thrown away a new one"
    with pytest.raises(Refusal, match="older copy"):
        write(files, key, 1)


def test_the_ledger_of_another_dataset_or_another_site_is_found(files, key, tmp_path):
    write(files, key, 1)
    other = LedgerFiles(tmp_path, "scans")
    other.folder.mkdir()
    other.ledger.write_bytes(files.ledger.read_bytes())
    other.anchor.write_bytes(files.anchor.read_bytes())
    assert problem(other, key) == "its anchor cannot be read", "the anchor names its dataset"
    elsewhere = load_or_create_key(tmp_path / "elsewhere" / "key.pem")
    assert problem(files, elsewhere) == "its anchor is not signed with this site's key"


def test_a_ledger_that_is_a_link_into_nowhere_charges_once_and_never_again(files, key):
    files.folder.mkdir(parents=True)
    files.ledger.symlink_to("/dev/null")
    with pytest.raises(OSError, match="Invalid argument"):  # /dev/null cannot be synced: no grant
        write(files, key, 1)
    files.ledger.unlink()
    sink = files.site / "elsewhere"
    files.ledger.symlink_to(sink)
    write(files, key, 2)
    sink.unlink()
    assert problem(files, key) == "it was cut: 0 entries are left of 2"


def test_a_clock_that_goes_back_changes_nothing(files, key, monkeypatch):
    write(files, key, 1)
    monkeypatch.setattr(ledger_module.time, "time", lambda: -1e9)
    write(files, key, 1)
    assert problem(files, key) is None
    assert numbers(files) == [0, 0]


def test_a_ledger_that_another_process_does_not_let_go_is_a_refusal(files, key, monkeypatch):
    monkeypatch.setattr(ledger_module, "BUSY_S", 0.05)
    with exclusive_ledger(files, key), pytest.raises(Refusal, match="another process has locked") as caught:
        write(files, key, 1)
    assert caught.value.code is Code.LEDGER_BUSY


def test_a_lock_file_that_is_deleted_between_opening_and_locking_is_opened_again(files, key, monkeypatch):
    write(files, key, 1)
    lock, taken = files.folder / "lock", []
    real = ledger_module.fcntl.flock

    def flock(file, how):
        real(file, how)
        taken.append(os.fstat(file.fileno()).st_ino)
        if len(taken) == 1:
            lock.rename(lock.with_name("old"))  # kept, so that its number is not given away again

    monkeypatch.setattr(ledger_module.fcntl, "flock", flock)
    write(files, key, 1)
    assert len(taken) == 2
    assert taken[1] == lock.stat().st_ino != taken[0]


def _append_many(site: Path, count: int) -> None:
    files, key = LedgerFiles(site, "tickets"), load_or_create_key(site / "privacy" / "key.pem")
    write(files, key, count)


def test_two_processes_never_append_at_the_same_time(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(tmp_path, 15)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    files = LedgerFiles(tmp_path, "tickets")
    assert sorted(numbers(files)) == sorted([*range(15), *range(15)])
    assert problem(files, load_or_create_key(tmp_path / "privacy" / "key.pem")) is None


@pytest.mark.parametrize("name", ["../other", "a/b", "", ".hidden", "x" * 101])
def test_a_dataset_id_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="the dataset id"):
        LedgerFiles(tmp_path, name)


def test_a_new_key_is_private_and_stays(tmp_path):
    path = tmp_path / "keys" / "site.pem"
    first = load_or_create_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_text(load_or_create_key(path)) == public_text(first)
    assert [p.name for p in path.parent.iterdir()] == ["site.pem"]


def test_a_key_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "site.pem"
    load_or_create_key(path)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="mode 0644, others can read it"):
        load_or_create_key(path)


def test_elliptic_curve_keys_sign_too(tmp_path):
    key = ec.generate_private_key(ec.SECP384R1())
    path = tmp_path / "node.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    loaded = load_key(path)
    signature = sign(loaded, b"text")
    require_signed(public_text(loaded), b"text", signature)
    with pytest.raises(SignatureError, match="does not belong"):
        require_signed(public_text(loaded), b"other", signature)


def test_the_file_is_one_json_object_a_line(files, key):
    write(files, key, 1)
    (line,) = files.ledger.read_text().splitlines()
    assert set(json.loads(line)) == {"sequence", "previous", "digest", "kind", "number", "dataset", "time"}


def test_an_anchor_that_this_process_wrote_is_not_written_again_and_any_other_is(files, key, monkeypatch):
    write(files, key, 2)
    written = []
    real = ledger_module.write_atomically
    monkeypatch.setattr(
        ledger_module, "write_atomically", lambda path, content: (written.append(path), real(path, content))
    )
    with exclusive_ledger(files, key):
        pass
    assert written == []
    monkeypatch.setattr(ledger_module, "_ANCHORED", {})  # as another process has it
    with exclusive_ledger(files, key):
        pass
    assert written == [files.anchor]


def test_a_line_whose_anchor_failed_is_anchored_before_the_next(files, key, monkeypatch):
    def full(path: Path, content: bytes) -> None:
        raise OSError("full")

    write(files, key, 1)
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "write_atomically", full)
        with pytest.raises(OSError, match="full"):
            write(files, key, 1)
    before = files.anchor.read_bytes()
    with exclusive_ledger(files, key) as ledger:
        assert files.anchor.read_bytes() != before
        assert len(ledger.entries) == 2
    assert problem(files, key) is None
