"""The two steps of `fedlora admin roll-authority`: checks, questions and messages around `server.trust.authority`."""

from __future__ import annotations

from fedlora.deployment.asking import agree
from fedlora.deployment.enrolment import certificate_fingerprint
from fedlora.deployment.environment import split_address
from server.settings import ServerSettings
from server.trust.authority import begin_roll, finish_roll
from server.trust.certificates import authorities
from server.trust.grants import read_granted
from server.trust.provision import read_registry, registry_lock
from server.trust.told import tell


def begin(settings: ServerSettings) -> str:
    """The new authority's fingerprint; it holds beside the old one."""
    with registry_lock(settings):
        old = certificate_fingerprint(authorities(settings.pki)[-1])
        new = certificate_fingerprint(begin_roll(settings.pki, coordinator=settings.name).certificate)
    tell(settings, "authority-added", authority=new, old_authority=old)
    return new


def still_to_grant(settings: ServerSettings) -> list[str]:
    """Approved sites whose newest grant is not of the newest authority. That a grant was written is known here; that
    the site has taken it, only the site can say."""
    newest, granted = certificate_fingerprint(authorities(settings.pki)[-1]), read_granted(settings.folder)
    approved = read_registry(settings).approved
    return [site for site in approved if site not in granted or granted[site].authority != newest]


def finish_after_asking(settings: ServerSettings, *, yes: bool) -> str:
    """The fingerprint of the authority that is left. SettingsError if there is no new one, or the answer is no."""
    found = authorities(settings.pki)
    new = certificate_fingerprint(found[-1])
    if len(found) > 1:
        late = still_to_grant(settings)
        told = (
            f"Sites without a grant of the new authority will lose the connection: {', '.join(late)}. " if late else ""
        )
        agree(f"{told}Remove the old authority?", yes=yes)
    with registry_lock(settings):
        finish_roll(settings.pki, hosts=[split_address(settings.address)[0]])
    tell(settings, "authority-replaced", authority=new)
    return new
