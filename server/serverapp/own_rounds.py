"""The whole loop of a recipe in a ServerApp of one's own, of three objects: recipe, loaded model, folder.

    home = loaded_model(recipe.model, recipe.adapter, labels)
    fedlora.flower.rounds(recipe, home, folder).start(grid)

With what `fedlora simulate` has and a strategy alone has not: checkpoints and resuming, privacy with its receipts,
robust rules, codecs both ways. Its clients are `fedlora.flower.client_app(find_site)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flwr.serverapp import Grid

from fedlora.config import Recipe
from fedlora.models.loaded_model import LoadedModel
from server.coordinate import Coordination, coordinate
from server.record.checkpoint import Progress
from server.record.journal import Journal
from server.rounds import Evaluate


@dataclass(frozen=True)
class OwnRounds:
    """A recipe's rounds, ready for a grid."""

    recipe: Recipe
    home: LoadedModel
    folder: Path
    evaluate: Evaluate | None = None

    def start(self, grid: Grid) -> Progress:
        """Run the rounds that are left and export the adapter: from the folder's checkpoint on, where there is one.

        SettingsError, QuorumError or MissingClientsError as `server.rounds.Rounds`, whose loop it is.
        """
        labels = tuple(self.recipe.data.labels or ())
        needs = Coordination(self.home, self.folder, labels, evaluate=self.evaluate)
        resume = Journal(self.folder, self.recipe).has_checkpoint
        return coordinate(grid, self.recipe, needs, resume=resume)


def rounds(recipe: Recipe, home: LoadedModel, folder: str | Path, *, evaluate: Evaluate | None = None) -> OwnRounds:
    """`home`: the base, adapted, as `fedlora.models.loaded_model.loaded_model` gives it, with the classes of
    `data.labels`. `evaluate`: quality of a state on the coordinator's own examples."""
    return OwnRounds(recipe, home, Path(folder), evaluate)
