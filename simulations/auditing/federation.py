"""The federation of an audit: the coordinator's own rounds with one site, a deployed one, on a grid in this process.

Rounds ─► task ─► client.deployed.respond ─► policy, guard, ledger, file, tokens ─► train_adapter_privately ─► update
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.deployed import respond
from client.messages import read_task, reply_message
from client.settings import ClientSettings
from fedlora.config import Recipe
from fedlora.config.clients.quotas import QuotaSettings
from fedlora.config.clients.robust import RobustSettings
from fedlora.data.form import TEXT_AND_LABEL
from fedlora.models.loaded_model import loaded_model
from fedlora.privacy.gaussian_audit import Claim
from fedlora.privacy.ledger import LedgerFiles, inspect_ledger
from fedlora.protocol.task import Task
from fedlora.settings import SettingsError
from fedlora.tasks.registry import forms_of
from fedlora.updates import Factor
from server.coordinate import Coordination, begin
from server.record.journal import Journal
from server.requests.outgoing import RunConstants, outgoing
from server.rounds import Rounds, RunContext
from simulations.local_grid import FIRST_NODE, LocalGrid
from strategies.compatibility import case_of, require_compatible


def alone(recipe: Recipe) -> Recipe:
    """The recipe for one honest client: nothing that compares clients, caps them or turns them away."""
    return recipe.model_copy(
        update={
            "mode": "federated",
            "rounds": recipe.rounds.model_copy(update={"min_clients": 1, "fraction": 1.0, "quorum": 1.0}),
            "robust": RobustSettings(),
            "quotas": QuotaSettings(),
            "attack": None,
            "devices": {},
        }
    )


def require_auditable(recipe: Recipe) -> None:
    """SettingsError for a recipe whose claim these canaries do not reach, or that no run would begin."""
    require_compatible(case_of(recipe))
    if not recipe.privacy.enabled:
        raise SettingsError("the recipe is not private; set privacy.epsilon, for example --set privacy.epsilon=6.")
    if TEXT_AND_LABEL not in forms_of(recipe.model.task):
        raise SettingsError(
            f"the audit's canaries are texts with a class, and model.task={recipe.model.task} reads none: it "
            "cannot be audited yet."
        )
    if recipe.adapter.init == "client-gradients":
        raise SettingsError(
            "the audit covers the rounds only, but adapter.init=client-gradients has a private step before them; "
            "audit the recipe with another adapter.init."
        )


@dataclass(frozen=True)
class Federation:
    """A coordinator and its one site."""

    recipe: Recipe
    site: ClientSettings
    brief: RunConstants
    rounds: Rounds
    grid: LocalGrid

    def go_on(self, rounds: int) -> None:
        """Run up to this number of rounds. RunError, with the site's code, if it does not answer."""
        self.rounds.start(self.grid, num_rounds=rounds)

    @property
    def values(self) -> int:
        """How many numbers train in the first round."""
        trained = self.rounds.strategy.trains(1) - ({Factor.DENSE} if self.recipe.train.head == "frozen" else set())
        return sum(tensor.numel() for tensor in self.rounds.progress.state.adapter.tensors(trained).values())

    def claims(self) -> list[Claim]:
        """The charges in the site's ledger, step by step."""
        files = LedgerFiles(self.site.state, self.site.data.dataset)
        charges = [entry.fields for entry in inspect_ledger(files).entries if entry.kind == "charge"]
        return [
            Claim(
                rate=charge["rate"],
                noise_multiplier=charge["noise_multiplier"],
                clip=charge["clip"],
                batch=charge["expected_batch"],
            )
            for charge in charges
            for _ in range(charge["steps"])
        ]

    def task_for_a_new_site(self) -> tuple[Task, bytes]:
        """The next message for a new site."""
        sent, _ = outgoing(
            self.recipe,
            self.brief,
            self.rounds.strategy,
            self.rounds.progress,
            nodes=[FIRST_NODE + 1],
            number=self.rounds.progress.round + 1,
        )
        (one,) = sent.values()
        return one.task, one.blob


def federate_alone(recipe: Recipe, labels: tuple[str, ...], site: ClientSettings, folder: Path) -> Federation:
    """A run of the recipe that has not begun its first round."""
    require_auditable(recipe)
    recipe, grid = alone(recipe), LocalGrid(app_of(site), nodes=1, run_config={})
    case = case_of(recipe)
    require_compatible(case)
    strategy = case.strategy
    home = loaded_model(site.compute.placed(recipe).model, recipe.adapter, labels)
    journal, needs = Journal(folder, recipe), Coordination(home, folder, labels, compute=site.compute)
    progress = begin(grid, journal, recipe, strategy, needs)
    brief = RunConstants(home.base.fingerprint, labels)
    return Federation(recipe, site, brief, Rounds(recipe, brief, strategy, progress, RunContext(journal)), grid)


def app_of(site: ClientSettings) -> ClientApp:
    """The site's answers, as `client.deployed` gives them."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        task, blob = read_task(message)
        report, update = respond(task, blob, site)
        return reply_message(message, report, update)

    return app
