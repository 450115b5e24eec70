"""`fedlora client doctor`: everything that a site needs, each with its remedy; nothing is changed or sent."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path

from client.deployed import policy_of
from client.deployment import data_findings
from client.deployment.agent import require_ready
from client.deployment.wanted import NOTHING, Wanted
from client.flower.clock import CHECK, against_coordinator
from client.flower.identity import certificate_for, load_node_key
from client.offline import stay_offline
from client.settings import ClientSettings, load_client
from fedlora.config import ModelSettings
from fedlora.deployment import checks
from fedlora.deployment.environment import split_address
from fedlora.deployment.findings import Finding, bad, doubtful, examine_all, good
from fedlora.plugins.gate import open_to
from fedlora.privacy.ledger import LedgerFiles, inspect_ledger
from fedlora.privacy.policy import FINGERPRINT, names_a_folder
from fedlora.settings import SettingsError
from fedlora.tasks.registry import has_classes

CONNECT_S = 5.0
ROLL_DAYS = 120
"""An authority that ends is followed by a new one long before, and every site needs a grant of it."""


def examine(config: Path, *, wanted: Wanted = NOTHING) -> list[Finding]:
    """All findings; with an unreadable client.yaml there is only one. `wanted`: what a run will need."""
    try:
        settings = load_client(config)
    except SettingsError as error:
        return [bad("settings", str(error), f"Mend {config}, or make it with: fedlora client enroll, client accept")]
    with contextlib.suppress(SettingsError):  # a finding of its own, below
        open_to(policy_of(settings).plugins)
    stay_offline(settings)  # what the agent finds is asked, not what a hub has
    host, _ = split_address(settings.coordinator)
    return examine_all(
        [
            ("versions", checks.versions),
            ("commands", lambda: checks.commands("flower-supernode", "flower-superexec")),
            ("node key", lambda: checks.private("node key", settings.node_key)),
            ("certificate authority", lambda: authority(settings)),
            ("site certificate", lambda: site_certificate(settings)),
            ("coordinator", lambda: coordinator(settings, host)),
            ("settings", lambda: startable(settings)),
            ("clock", checks.clock),
            (CHECK, lambda: against_coordinator(settings)),
            ("disk", lambda: checks.disk(settings.folder)),
            ("device", lambda: checks.device(settings.device or "cpu")),
            ("base model", lambda: base_model(settings, wanted)),
            ("data", lambda: data_findings.data(settings)),
            *([("classes", lambda: data_findings.classes(settings))] if has_classes(settings.data.task) else []),
            ("texts", lambda: data_findings.texts(settings, wanted)),
            ("dataset", lambda: data_findings.own_name(settings)),
            ("public size", lambda: data_findings.public_size(settings, policy_of(settings))),
            ("policy", lambda: policy(settings)),
            ("ledger", lambda: ledger(settings)),
        ]
    )


def authority(settings: ClientSettings) -> Finding:
    """The certificate that the coordinator is recognised by."""
    remedy = "Ask the coordinator for a new grant, then: fedlora client accept"
    return checks.certificate("certificate authority", settings.ca_certificate, remedy=remedy, warn_days=ROLL_DAYS)


def site_certificate(settings: ClientSettings) -> Finding:
    """What this site shows at the coordinator's port: there, for the key that it has, and valid for a while."""
    remedy = "Send request.json again; the coordinator approves it, and you take the grant: fedlora client accept"
    if not settings.certificate.exists():
        return doubtful("site certificate", "none: a coordinator after version 0.1.0 requires one", remedy)
    own = certificate_for(load_node_key(settings.node_key).public_key(), settings.certificate)
    if own is None:
        return bad("site certificate", f"{settings.certificate} is not for {settings.node_key}", remedy)
    return checks.valid_now("site certificate", own, remedy=remedy, warn_days=ROLL_DAYS)


def coordinator(settings: ClientSettings, host: str) -> Finding:
    """Reachable, with a certificate of its authority that is valid by this clock and for this name."""
    _, port = split_address(settings.coordinator)
    try:
        context = ssl.create_default_context(cafile=str(settings.ca_certificate))
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, port), timeout=CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            return good("coordinator", f"{settings.coordinator} answers with {wrapped.version()}")
    except ssl.SSLCertVerificationError as error:
        remedy = "Its certificate is not for this name, not of this authority, or expired; or this clock is wrong."
        return bad("coordinator", f"{settings.coordinator}: {error.verify_message}", remedy)
    except OSError as error:
        remedy = f"Allow outgoing TCP to {settings.coordinator}; ask the coordinator whether it is up."
        return bad("coordinator", f"{settings.coordinator}: {error.strerror or error}", remedy)


def startable(settings: ClientSettings) -> Finding:
    """What `client up` checks before it starts."""
    require_ready(settings)
    if settings.executor == "stock" or settings.allow_bundles:
        return doubtful(
            "settings", "code that a coordinator ships may run here", "Use executor: warm and an empty allow_bundles."
        )
    return good("settings", f"{settings.site}: warm executor, configuration-only bundles")


def base_model(settings: ClientSettings, wanted: Wanted) -> Finding:
    """The base model that was asked for, or the first that the policy names by id, is here and allowed."""
    allowed = policy_of(settings).base_models
    if allowed == "any":
        remedy = "Write in policy.yaml which ones: fedlora client doctor --model ID prints the line."
        return doubtful("base model", "any that a task names is loaded", remedy)
    named = wanted.model or next((entry for entry in allowed if not FINGERPRINT.fullmatch(entry)), None)
    if named is None and not allowed:
        remedy = "fedlora client doctor --model ID prints the line for policy.yaml."
        return doubtful("base model", "policy.yaml lists none: every task is refused", remedy)
    if named is None:
        return good("base model", "policy.yaml lists fingerprints; --model ID compares a model with them")
    held = wanted.load_dtype or settings.load_dtype or "float32"
    asked = ModelSettings(id=named, task=settings.data.task, load_dtype=held)
    base = checks.base_here(asked)
    if isinstance(base, Finding):
        return base
    said, fingerprint = checks.said_of_base(asked, base), base.fingerprint
    if named not in allowed and (fingerprint not in allowed or names_a_folder(named)):
        line = allowing(named, fingerprint, already=allowed)
        return bad("base model", f"{said}, not among base_models in policy.yaml", f"To allow it, write: {line}")
    if settings.download_models and fingerprint not in allowed:
        line = allowing(named, fingerprint, already=[entry for entry in allowed if entry != named])
        return doubtful("base model", f"{said}; a hub may change what {named} is", f"Pin it: {line}")
    return good("base model", said)


def allowing(model_id: str, fingerprint: str, *, already: Iterable[str]) -> str:
    """The line of policy.yaml that allows this model beside those that are: a folder by its name, others by what they
    are."""
    if names_a_folder(model_id):
        return f"base_models: {json.dumps([*already, model_id])}  # {fingerprint}"
    return f"base_models: {json.dumps([*already, fingerprint])}  # {model_id}"


def policy(settings: ClientSettings) -> Finding:
    """The site's own bounds."""
    found = policy_of(settings)
    said = f"epsilon at most {found.epsilon_budget:g} for ever, delta {found.max_delta:g}"
    if not found.require_privacy:
        return doubtful("policy", "training without privacy is allowed", "Set require_privacy: true in policy.yaml.")
    if found.allow_insecure_noise:
        return bad("policy", "noise from a seed is allowed: it protects nobody", "Take allow_insecure_noise out.")
    return good("policy", said)


def ledger(settings: ClientSettings) -> Finding:
    """The ledger is whole."""
    files = LedgerFiles(settings.state, settings.data.dataset)
    if not files.ledger.exists() and not files.anchor.exists():
        return good("ledger", "nothing was spent yet")
    chain = inspect_ledger(files)
    if chain.problem:
        return bad(
            "ledger", chain.problem, "fedlora ledger verify; restore it from a backup. Nothing trains until then."
        )
    return good("ledger", f"{len(chain.entries)} entries, chain unbroken")
