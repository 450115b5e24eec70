"""Keys, requests, grants, the registry: what each side accepts, and what it refuses."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from client.deployment.commands import app as client
from client.deployment.enroll import accept, ask, ask_with_new_key
from client.settings import ClientSettings, load_client
from fedlora.deployment.enrolment import (
    fingerprint,
    make_request,
    new_node_key,
    read_request,
    require_name,
    require_valid,
)
from fedlora.deployment.private_files import require_private, write_private
from fedlora.privacy.policy import Policy
from fedlora.settings import SettingsError, parse
from server.commands.admin import admin
from server.deployment.registration import BATCH, reconcile
from server.flower.control import ControlError, Node, key_bytes
from server.settings import ServerSettings, load_server
from server.trust.provision import approve, grant_again, initialise, is_reconciled, read_registry, revoke


class FakeControl:
    """As strict as the SuperLink: a key has one node, an unknown node cannot be removed."""

    def __init__(self) -> None:
        self.keys: dict[int, str] = {}
        self.reachable = True
        self.registered = 0

    def register(self, public_key: str) -> int:
        key = public_key
        if key in self.keys.values():
            raise ControlError("Public key already in use.")
        self.registered += 1
        node = 100 + self.registered
        self.keys[node] = key
        return node

    def unregister(self, node: int) -> None:
        if node not in self.keys:
            raise ControlError("unknown node")
        del self.keys[node]

    def nodes(self) -> dict[int, Node]:
        if not self.reachable:
            raise ControlError("connection refused")
        return {node: Node(key_bytes(key), "online") for node, key in self.keys.items()}


@pytest.fixture
def coordinator(tmp_path):
    initialise(tmp_path / "server", name="net", address="coordinator.example:9092")
    return load_server(tmp_path / "server" / "server.yaml")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_and_secrets_are_readable_by_their_owner_only(coordinator, tmp_path):
    ask(tmp_path / "site", site="a")
    for path in (coordinator.pki / "ca.key", coordinator.pki / "server.pem", coordinator.secret):
        assert mode(path) == 0o600
    assert mode(tmp_path / "site" / "node.key") == 0o600
    assert mode(tmp_path / "site") == mode(coordinator.pki) == 0o700


@pytest.mark.parametrize("others", [0o604, 0o640, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused_with_the_command_that_mends_it(tmp_path, others):
    write_private(tmp_path / "key", b"k")
    (tmp_path / "key").chmod(others)
    with pytest.raises(SettingsError, match=f"has mode 0{others:o}.*chmod 600"):
        require_private(tmp_path / "key")


def test_the_private_key_is_neither_in_the_request_nor_in_the_grant(coordinator, tmp_path):
    request = ask(tmp_path / "site", site="a")
    secret = (tmp_path / "site" / "node.key").read_text().splitlines()[3]
    assert secret not in request.model_dump_json()
    assert secret not in approve(coordinator, request).model_dump_json()


def test_enrolment_ends_with_a_site_that_knows_address_authority_and_name(coordinator, tmp_path):
    grant = approve(coordinator, ask(tmp_path / "site", site="hospital-a"))
    accept(tmp_path / "site", grant, train=tmp_path / "x.csv")
    settings = load_client(tmp_path / "site" / "client.yaml")
    assert (settings.site, settings.coordinator) == ("hospital-a", "coordinator.example:9092")
    assert settings.ca_certificate.read_bytes() == (coordinator.pki / "ca.crt").read_bytes()


def test_a_grant_is_taken_before_the_data_are_there_and_that_is_said(coordinator, tmp_path):
    site = tmp_path / "site"
    (tmp_path / "grant.json").write_text(approve(coordinator, ask(site, site="a")).model_dump_json())
    words = ["accept", str(site), str(tmp_path / "grant.json"), "--train", str(tmp_path / "later.csv")]
    said = CliRunner().invoke(client, words, catch_exceptions=False).output
    assert "a takes part in net" in said
    assert "later.csv is not there yet" in said


def test_sites_are_listed_with_whole_fingerprints(coordinator, tmp_path):
    config = ("--config", str(coordinator.folder / "server.yaml"))
    assert "No sites yet" in CliRunner().invoke(admin, ["list", *config]).output
    approve(coordinator, ask(tmp_path / "site", site="a-hospital-with-a-long-name"))
    said = CliRunner().invoke(admin, ["list", *config], catch_exceptions=False).output
    assert "…" not in said
    assert "SHA256:" in said


def test_what_the_written_files_suggest_are_settings_and_what_they_say_of_defaults_is_true(coordinator, tmp_path):
    accept(tmp_path / "site", approve(coordinator, ask(tmp_path / "site", site="a")))

    def with_suggestions(path: Path) -> dict[str, object]:
        return yaml.safe_load(re.sub(r"^# (?=[a-z_]+: )", "", path.read_text(), flags=re.MULTILINE))

    server = parse(ServerSettings, with_suggestions(coordinator.folder / "server.yaml"))
    assert len(server.labels) == 3
    assert server.held_out is not None
    found = parse(ClientSettings, with_suggestions(tmp_path / "site" / "client.yaml"))
    assert found.limits.megabits_s == 20
    policy = parse(Policy, with_suggestions(tmp_path / "site" / "policy.yaml"))
    assert policy == Policy(coordinators=("net",))


@pytest.mark.parametrize("name", ["", "../up", "a/b", "A", "a b", "-a", "a" * 64, "a\n", "ä", "."])
def test_a_name_that_could_be_a_path_is_refused(name):
    with pytest.raises(SettingsError, match="small letters"):
        require_name(name)


def test_a_request_that_was_changed_on_the_way_is_refused(tmp_path):
    request = make_request("a", new_node_key())
    other = make_request("b", new_node_key())
    for changed in ({"site": "b"}, {"public_key": other.public_key}, {"signature": other.signature}):
        with pytest.raises(SettingsError, match="not signed with its own key"):
            require_valid(request.model_copy(update=changed))


def test_a_request_file_that_is_no_request_is_refused(tmp_path):
    for content in ("[1]", "{", json.dumps({"site": "a"}), "x" * 70_000):
        (tmp_path / "request.json").write_text(content)
        with pytest.raises(SettingsError):
            read_request(tmp_path / "request.json")


def test_a_grant_for_another_sites_key_is_refused_and_changes_nothing(coordinator, tmp_path):
    ask(tmp_path / "mine", site="a")
    foreign = approve(coordinator, ask(tmp_path / "theirs", site="b"))
    with pytest.raises(SettingsError, match="does not hold"):
        accept(tmp_path / "mine", foreign)
    assert not (tmp_path / "mine" / "ca.crt").exists()


def test_a_site_is_granted_again_without_its_request_while_it_is_approved(coordinator, tmp_path):
    first = approve(coordinator, ask(tmp_path / "a", site="a"))
    moved = coordinator.model_copy(update={"address": "elsewhere.example:9092"})
    again = grant_again(moved, "a")
    assert (again.key, again.address) == (first.key, "elsewhere.example:9092")
    accept(tmp_path / "a", again)
    revoke(coordinator, "a")
    with pytest.raises(SettingsError, match="not approved"):
        grant_again(coordinator, "a")


def test_one_key_cannot_be_two_sites(coordinator, tmp_path):
    key = new_node_key()
    approve(coordinator, make_request("a", key))
    with pytest.raises(SettingsError, match="already belongs to the site a"):
        approve(coordinator, make_request("b", key))


def test_approval_reaches_the_superlink_and_revocation_leaves_it(coordinator, tmp_path):
    control = FakeControl()
    for name in ("a", "b"):
        approve(coordinator, ask(tmp_path / name, site=name))
    assert is_reconciled(reconcile(coordinator, control))
    node = read_registry(coordinator).sites["a"].node
    revoke(coordinator, "a")
    assert not is_reconciled(read_registry(coordinator))
    registry = reconcile(coordinator, control)
    assert is_reconciled(registry)
    assert node not in control.keys
    assert len(control.keys) == 1
    assert registry.name_of(node) is None


def test_a_revoked_key_is_never_accepted_again_but_a_new_key_is(coordinator, tmp_path):
    approve(coordinator, ask(tmp_path / "a", site="a"))
    revoke(coordinator, "a")
    with pytest.raises(SettingsError, match="replaced or revoked"):
        approve(coordinator, ask(tmp_path / "a", site="a"))
    with pytest.raises(SettingsError, match="replaced or revoked"):
        approve(coordinator, make_request("other", (tmp_path / "a" / "node.key").read_bytes()))
    grant = approve(coordinator, ask_with_new_key(tmp_path / "a", site="a"))
    accept(tmp_path / "a", grant)
    assert read_registry(coordinator).sites["a"].status == "approved"


def test_rotation_replaces_the_key_on_both_sides(coordinator, tmp_path):
    control = FakeControl()
    first = ask(tmp_path / "a", site="a")
    accept(tmp_path / "a", approve(coordinator, first))
    old = reconcile(coordinator, control).sites["a"].node
    second = ask_with_new_key(tmp_path / "a", site="a")
    grant = approve(coordinator, second)
    new = reconcile(coordinator, control).sites["a"].node
    accept(tmp_path / "a", grant)
    assert old not in control.keys
    assert control.keys[new] == second.public_key
    assert grant.key == fingerprint(second.public_key) != fingerprint(first.public_key)
    held = make_request("a", (tmp_path / "a" / "node.key").read_bytes())
    assert held.public_key == second.public_key


def test_a_superlink_that_lost_its_database_is_told_everything_again(coordinator, tmp_path):
    approve(coordinator, ask(tmp_path / "a", site="a"))
    reconcile(coordinator, FakeControl())
    empty = FakeControl()
    reconcile(coordinator, empty)
    assert len(empty.keys) == 1


def test_many_sites_are_registered_in_batches_and_a_revocation_goes_first(coordinator):
    control = FakeControl()
    for number in range(BATCH + 2):
        approve(coordinator, make_request(f"s{number}", new_node_key()))
    assert not is_reconciled(reconcile(coordinator, control))
    assert len(control.keys) == BATCH
    registered = next(name for name, site in read_registry(coordinator).sites.items() if site.node is not None)
    node = read_registry(coordinator).sites[registered].node
    revoke(coordinator, registered)
    assert is_reconciled(reconcile(coordinator, control))
    assert node not in control.keys
    assert len(control.keys) == BATCH + 1


def test_a_site_that_is_revoked_while_it_is_being_registered_is_cut_off_by_the_next_step(coordinator, tmp_path):
    approve(coordinator, ask(tmp_path / "a", site="a"))

    class Slow(FakeControl):
        def register(self, public_key: str) -> int:
            node = super().register(public_key)
            revoke(coordinator, "a")
            return node

    control = Slow()
    reconcile(coordinator, control)
    assert len(control.keys) == 1
    reconcile(coordinator, control)
    assert control.keys == {}


def test_a_key_that_nobody_wrote_down_is_cut_off_or_taken_over(coordinator, tmp_path):
    """The coordinator was killed between Flower's answer and its own note."""
    request = ask(tmp_path / "a", site="a")
    approve(coordinator, request)
    control = FakeControl()
    node, stray = control.register(request.public_key), control.register(make_request("b", new_node_key()).public_key)
    assert is_reconciled(reconcile(coordinator, control))
    assert read_registry(coordinator).sites["a"].node == node
    assert stray not in control.keys


def test_an_unreachable_superlink_leaves_the_registry_as_it_was(coordinator, tmp_path):
    approve(coordinator, ask(tmp_path / "a", site="a"))
    control = FakeControl()
    control.reachable = False
    before = read_registry(coordinator)
    with pytest.raises(ControlError):
        reconcile(coordinator, control)
    assert read_registry(coordinator) == before


def test_a_second_init_changes_nothing(coordinator, tmp_path):
    before = (coordinator.pki / "ca.key").read_bytes()
    with pytest.raises(SettingsError, match="already contains a coordinator"):
        initialise(tmp_path / "server", name="net", address="x:1")
    assert (coordinator.pki / "ca.key").read_bytes() == before
