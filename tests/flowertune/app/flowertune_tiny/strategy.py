"""Averaging, with the bytes counted that travel both ways."""

from flwr.serverapp.strategy import FedAvg


class FlowerTuneLlm(FedAvg):
    """As FlowerTune's: what its budget of 200 GB is counted by."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.tracker = CommunicationTracker()

    def configure_train(self, server_round, arrays, config, grid):
        messages = super().configure_train(server_round, arrays, config, grid)
        self.tracker.track(messages)
        return messages

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.tracker.track(replies)
        return super().aggregate_train(server_round, replies)


class CommunicationTracker:
    def __init__(self):
        self.bytes = 0

    def track(self, messages):
        for message in messages:
            if message.has_content():
                for record in message.content.array_records.values():
                    self.bytes += sum(len(array.data) for array in record.values())
