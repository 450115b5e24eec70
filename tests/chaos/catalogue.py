"""Every fault of the drill by its name, in the order in which they happen: one at a site, one at the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tests.chaos.faults import (
    bounds,
    certificates,
    damage,
    database,
    disks,
    kills,
    rivals,
    stops,
    wrong_clocks,
)
from tests.chaos.report import Seen
from tests.chaos.scene import Scene


class At(Enum):
    """Whose training is looked for afterwards."""

    SITE = "one of three sites in turn"
    SLOW_SITE = "the one behind the slow link"
    COORDINATOR = "the coordinator"


@dataclass(frozen=True)
class Fault:
    act: Callable[[Scene], Seen]
    """Does it, makes sure that it happened, and undoes what an administrator would undo."""
    at: At
    beside: bool = False
    """It lasts, and is at a site: those that follow, at the coordinator and at other sites, do not wait for it."""


SITE, SLOW_SITE, COORDINATOR = At

FAULTS: dict[str, Fault] = {
    "executor killed while it trains": Fault(kills.kill_executor_training, SITE),
    "ServerApp killed while it aggregates": Fault(kills.kill_serverapp_aggregating, COORDINATOR),
    "second agent on a site's folder": Fault(rivals.second_agent, SITE),
    "SuperLink killed": Fault(kills.kill_superlink, COORDINATOR),
    "SuperNode killed": Fault(kills.kill_supernode, SITE),
    "corrupt pages in superlink.db, at work": Fault(database.corrupt_while_it_works, COORDINATOR),
    "late answer (stopped for 12 s)": Fault(stops.answer_late, SITE),
    "two coordinators on one folder": Fault(rivals.second_coordinator, COORDINATOR),
    "agent killed while it uploads": Fault(kills.kill_agent_uploading, SLOW_SITE),
    "disk full at certificate renewal": Fault(disks.fill_disk_at_renewal, COORDINATOR),
    "duplicate answers": Fault(rivals.answer_twice, SITE),
    "corrupted checkpoint": Fault(damage.damage_checkpoint, COORDINATOR),
    "full disk at a site": Fault(disks.fill_sites_disk, SITE),
    "certificate ends during the run, key elsewhere": Fault(certificates.end_certificate_in_run, COORDINATOR),
    "SIGTERM to the agent in training": Fault(kills.terminate_agent_training, SITE),
    "SIGTERM to the coordinator while it aggregates": Fault(kills.terminate_coordinator_aggregating, COORDINATOR),
    "site's clock two hours ahead": Fault(wrong_clocks.site_clock_ahead, SITE),
    "64 file descriptors at the coordinator": Fault(bounds.few_files_at_coordinator, COORDINATOR),
    "no more memory for a site's executor": Fault(bounds.no_memory_for_executor, SITE),
    "full disk for the ServerApp": Fault(disks.fill_serverapps_disk, COORDINATOR),
    "executor stopped for 65 s in training": Fault(stops.stop_executor_training, SITE, beside=True),
    "coordinator's executor stopped for 65 s": Fault(stops.stop_server_executor, COORDINATOR),
    "agent killed while it trains": Fault(kills.kill_agent_training, SITE),
    "no more memory for the ServerApp": Fault(bounds.no_memory_for_serverapp, COORDINATOR),
    "whole coordinator killed": Fault(kills.kill_coordinator, COORDINATOR),
    "slow site's link cut for 10 s": Fault(damage.cut_link, SLOW_SITE),
    "superlink.db locked for 10 s": Fault(database.lock_database, COORDINATOR),
    "SuperNode stopped for 65 s": Fault(stops.stop_supernode, SITE, beside=True),
    "coordinator's supervisor stopped for 65 s": Fault(stops.stop_coordinator, COORDINATOR),
    "site's supervisor killed, nobody starts it for 20 s": Fault(kills.leave_site_alone, SITE),
    "coordinator's executor killed": Fault(kills.kill_server_executor, COORDINATOR),
    "no more memory for the SuperLink": Fault(bounds.no_memory_for_superlink, COORDINATOR),
    "SIGTERM to the executor in training": Fault(kills.terminate_executor_training, SITE),
    "superlink.db lost": Fault(database.lose_database, COORDINATOR),
    "agent's supervisor stopped for 65 s": Fault(stops.stop_agent, SITE, beside=True),
    "SuperLink stopped for 65 s": Fault(stops.stop_superlink, COORDINATOR),
    "revoked site, enrolled again": Fault(damage.revoke_site, SITE),
    "coordinator's supervisor killed, nobody starts it for 20 s": Fault(kills.leave_coordinator_alone, COORDINATOR),
    "site's clock two days behind": Fault(wrong_clocks.site_clock_behind, SITE),
    "full disk for the SuperLink": Fault(disks.fill_superlinks_disk, COORDINATOR),
    "site's supervisor killed, its SuperNode stopped": Fault(kills.orphan_supernode, SITE),
    "expired server certificate": Fault(certificates.expire_certificate, COORDINATOR),
    "slow start of a site (a tenth of a core)": Fault(bounds.slow_start_of_site, SITE, beside=True),
    "ServerApp stopped for 130 s": Fault(stops.stop_serverapp, COORDINATOR),
    "64 file descriptors at a site": Fault(bounds.few_files_at_site, SITE),
    "corrupt pages in superlink.db, SuperLink killed": Fault(database.corrupt_and_kill, COORDINATOR),
    "SIGTERM to the ServerApp": Fault(kills.terminate_serverapp, COORDINATOR),
    "coordinator's supervisor killed, its SuperLink stopped": Fault(kills.orphan_superlink, COORDINATOR),
    "slow start of the coordinator (a tenth of a core)": Fault(bounds.slow_start_of_coordinator, COORDINATOR),
    "coordinator's clock two hours ahead, then back": Fault(wrong_clocks.server_clock_ahead, COORDINATOR),
}
