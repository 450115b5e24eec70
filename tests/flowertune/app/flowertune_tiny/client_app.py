"""The client: what it received is loaded, trained for some steps, and sent back."""

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from transformers import Trainer, TrainingArguments

from flowertune_tiny.dataset import load_data, tokens_and_collator
from flowertune_tiny.models import cosine_annealing, get_model

app = ClientApp()


@app.train()
def train(msg, context):
    config = context.run_config
    rows = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    data, collator = tokens_and_collator(config["model.name"], rows, config["train.seq-length"])
    model = get_model(config)
    set_peft_model_state_dict(model, msg.content["arrays"].to_torch_state_dict())
    rate = cosine_annealing(
        msg.content["config"]["server-round"],
        config["num-server-rounds"],
        config["train.learning-rate-max"],
        config["train.learning-rate-min"],
    )
    arguments = TrainingArguments(
        output_dir=msg.content["config"]["save_path"],
        learning_rate=rate,
        per_device_train_batch_size=config["train.training-arguments.per-device-train-batch-size"],
        max_steps=config["train.training-arguments.max-steps"],
        lr_scheduler_type=config["train.training-arguments.lr-scheduler-type"],
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collator)
    results = trainer.train()
    metrics = MetricRecord({"train_loss": results.training_loss, "num-examples": len(data)})
    arrays = ArrayRecord(get_peft_model_state_dict(model))
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)
