"""The state that sites hold under `wire.download: changes`, and the links that lead to it.

All who took part in the last round hold one state, the same bits; those who were away for a few rounds follow the
links that they have missed. A whole state goes to newcomers, to whoever did not answer well the last time, and wherever
the links would be longer than it. The coordinator keeps one state and at most as many bytes of links, whatever the
number of clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlora.config.wire import WireSettings
from fedlora.updates import Adapter
from fedlora.wire.changes import next_links
from server.record.records import ClientRecord

Links = tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class Downlink:
    """What sites hold after round `round`, and how those who stand at round `since` or later get there."""

    round: int
    adapter: Adapter
    since: int
    links: Links = ()
    """(round that it leads to, packed link), in order."""
    left_out: float = 0.0
    """‖left out‖ / ‖change‖ of the newest change: what sites do not know yet."""

    def missed_by(self, held_round: int | None) -> list[bytes] | None:
        """The links for a site that holds that round's state; None where it needs the whole one."""
        if held_round is None or not self.since <= held_round:
            return None
        return [link for number, link in self.links if number > held_round]


def advanced(
    before: Downlink | None, target: Adapter, wire: WireSettings, *, run: str, round_number: int, strategy: str
) -> Downlink:
    """The next round's: the first is the target itself, every other one the last with one or two links more."""
    if before is None:
        return Downlink(round_number, target, since=round_number)
    step = next_links(
        before.adapter,
        target,
        run=run,
        round_number=round_number,
        strategy=strategy,
        codec=wire.download_codec,
        density=wire.download_density,
    )
    links = (*before.links, *((round_number, link) for link in step.links))
    whole = sum(4 * tensor.numel() for tensor in step.held.tensors().values())
    since, links = trimmed(before.since, links, most=whole)
    return Downlink(round_number, step.held, since, links, step.left_out)


def trimmed(since: int, links: Links, *, most: int) -> tuple[int, Links]:
    """Without the oldest rounds, as far as the links have more than `most` bytes: a whole state is shorter then."""
    while sum(len(link) for _, link in links) > most:
        since = links[0][0]
        links = tuple((number, link) for number, link in links if number > since)
    return since, links


def held_after(before: Mapping[int, int], asked: Sequence[ClientRecord], round_number: int) -> dict[int, int]:
    """Round of the state that each node is known to hold: who was asked and did not train is not believed any more."""
    after = {node: held for node, held in before.items() if node not in {record.node for record in asked}}
    return after | {record.node: round_number for record in asked if record.outcome == "trained"}


def used_after(before: Mapping[int, int], asked: Sequence[ClientRecord], round_number: int) -> dict[int, int]:
    """Last round whose update of each node is part of the state: what came late or was left out is not."""
    return dict(before) | {record.node: round_number for record in asked if record.outcome == "trained"}
