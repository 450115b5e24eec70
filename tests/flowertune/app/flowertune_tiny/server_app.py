"""The server: some rounds, and the adapter of every so many of them in a folder of its own."""

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import ServerApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from flowertune_tiny.models import get_model
from flowertune_tiny.strategy import FlowerTuneLlm

app = ServerApp()
FINISHED = []


@app.main()
def main(grid, context):
    config = context.run_config
    strategy = FlowerTuneLlm(
        fraction_train=config["strategy.fraction-fit"],
        fraction_evaluate=config["strategy.fraction-evaluate"],
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(get_peft_model_state_dict(get_model(config))),
        train_config=ConfigRecord({"save_path": config["save_path"]}),
        num_rounds=config["num-server-rounds"],
        evaluate_fn=saving(config),
    )
    FINISHED.append((result, strategy.tracker.bytes))


def saving(config):
    every, last = config["train.save-every-round"], config["num-server-rounds"]

    def evaluate(server_round, arrays):
        if server_round and (server_round == last or server_round % every == 0):
            model = get_model(config)
            set_peft_model_state_dict(model, arrays.to_torch_state_dict())
            model.save_pretrained(f"{config['save_path']}/peft_{server_round}")
        return MetricRecord()

    return evaluate
