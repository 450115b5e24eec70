"""The loop of a recipe in a ServerApp of one's own: three objects, and a folder that is gone on with."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

import fedlora.flower
from simulations.local_grid import LocalGrid, run_apps
from simulations.run import prepare
from simulations.sites import site_of


def test_three_objects_run_a_recipe_and_go_on_from_its_checkpoint(tmp_path, recipe):
    ready = prepare(recipe("rounds.count=2", "data.labels=[bad, good]"))
    sites = [site_of(ready.data, name, tmp_path, ready.compute) for name in ready.data.clients]
    clients = fedlora.flower.client_app(lambda context: sites[int(context.node_config["partition-id"])])
    seen = []

    def run(count: int) -> None:
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            own = ready.recipe.model_copy(update={"rounds": ready.recipe.rounds.model_copy(update={"count": count})})
            seen.append(fedlora.flower.rounds(own, ready.loaded_model, tmp_path / "run").start(grid))

        run_apps(server, LocalGrid(clients, nodes=len(sites), run_config={}), {})

    run(2)
    run(2)
    assert [progress.round for progress in seen] == [2, 2]
    assert seen[0].run == seen[1].run
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
