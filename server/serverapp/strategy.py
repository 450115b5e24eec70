"""A strategy of ours where Flower's FedAvg stood: `FedSVD(fraction_train=0.5).start(grid=grid, initial_arrays=...)`.

    initial arrays (PEFT's names) ─► init ─► State ─► broadcast ─► the same message to every sampled client
    answers ─► validated one by one (`answers.py`) ─► combine ─► step ─► the next State, a value

Sampling, evaluation by clients and their metrics are FedAvg's own. What is not: a bad answer costs its own update and
never the round; too few valid ones stop the run with an error, and nothing has changed; aggregation never ends in the
old weights without a word.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from logging import INFO
from typing import Any, ClassVar

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from fedlora.adapters.peft_names import adapter_of
from fedlora.adapters.shape import scale_of
from fedlora.config import AdapterSettings, Recipe
from fedlora.own_apps.records import JSON_KEY, MOVED_STYPE, NUMPY_STYPE, Order, bytes_of, named_tensors, state_tensors
from fedlora.settings import RunError, SettingsError, nearest, parse
from fedlora.updates import Factor
from server.record.figures import served_error
from server.serverapp.answers import Answers, Bounds
from strategies.base import Recipient, State
from strategies.compatibility import case_of, require_compatible
from strategies.registry import STRATEGIES

FLOWERS = frozenset(inspect.signature(FedAvg.__init__).parameters) - {"self"}
"""FedAvg's own arguments."""


@dataclass(frozen=True)
class Arguments:
    """Ours, besides FedAvg's and the strategy's own settings."""

    lora_alpha: float | None = None
    """PEFT's. Needed by strategies that add to the base, which have to know ΔW itself and not only A and B."""
    use_rslora: bool = False
    wire: Mapping[str, Any] | None = None
    """How answers of `fedlora.federate` are packed, as in a recipe's `wire`: {"codec": "int8", "density": 0.1}. Other
    clients answer with plain arrays whatever it says. None: plain arrays."""
    quorum: float = 0.5
    """Share of the asked that must give a valid answer."""
    max_update_norm: float = 1e4
    max_examples: int = 10_000_000
    max_weight: int | None = None


OURS = frozenset(inspect.signature(Arguments).parameters)


class OwnApp(FedAvg):
    """A strategy of the registry in a ServerApp of one's own. `state` is the only thing that changes, once a round."""

    name: ClassVar[str]
    """In the registry."""

    def __init__(self, **arguments: Any) -> None:
        """FedAvg's arguments, `Arguments`, and the strategy's own settings; SettingsError for what is none of them."""
        require_known(self.name, arguments)
        super().__init__(**{key: value for key, value in arguments.items() if key in FLOWERS})
        self.ours = Arguments(**{key: value for key, value in arguments.items() if key in OURS})
        options = {key: value for key, value in arguments.items() if key not in FLOWERS | OURS}
        self.recipe = recipe_of(self.name, options, self.ours)
        case = case_of(self.recipe)
        require_compatible(case)
        self.strategy = case.strategy
        if self.strategy.traits.moves_base and self.ours.lora_alpha is None:
            raise SettingsError(
                f"{type(self).__name__} adds to the base what A and B cannot hold, and has to know the scale of B A: "
                "give lora_alpha= (and use_rslora=), as in your LoraConfig."
            )
        self.state: State | None = None
        self._run = uuid.uuid4().hex
        self._rounds: int | None = None
        self._asked: Answers | None = None
        self._used: dict[int, int] = {}
        self._bytes_down = 0

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """As FedAvg's. `evaluate_fn` loads what it gets by `fedlora.flower.receive`, and saves it by `save`.

        RunError where a round has too few valid answers; `state` is that of the round before.
        """
        if evaluate_fn is not None and self.strategy.traits.keeps:
            raise SettingsError(
                f"{type(self).__name__} has no global model to evaluate: every client keeps "
                f"{', '.join(sorted(self.strategy.traits.keeps))}. Leave evaluate_fn out, and let the clients evaluate."
            )
        self.state, self._run, self._used = self._begun(initial_arrays), uuid.uuid4().hex, {}
        self._rounds = num_rounds
        arrays = self.arrays_of(self.state)
        return super().start(grid, arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The state, and an order, to every sampled node."""
        if self.state is None:
            self.state = self._begun(arrays)
        order, sent = self.order(server_round), self.arrays_of(self.state)
        plain = list(super().configure_train(server_round, sent, ConfigRecord(dict(config)), grid))
        messages = [self._with_order(message, order) for message in plain]
        nodes = frozenset(message.metadata.dst_node_id for message in messages)
        bounds = Bounds(
            self.weighted_by_key,
            self.arrayrecord_key,
            self.ours.max_examples,
            self.ours.max_weight,
            self.ours.max_update_norm,
        )
        self._asked = Answers(order, self.state.adapter, nodes, bounds)
        self._bytes_down = len(messages) * sum(len(array.data) for array in sent.values())
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Read the answers once; then the next state. RunError, and nothing has changed, where too few are valid."""
        asked, old = self._asked, self.state
        if asked is None or old is None or asked.order.round != server_round:
            raise ValueError(f"round {server_round} was not configured: call configure_train before aggregate_train.")
        updates = asked.updates(replies)
        first = next(updates, None)
        if first is None:
            raise self._too_few(asked)
        combined = self.strategy.combine(chain([first], updates))
        if len(asked.used) < self.ours.quorum * len(asked.nodes):
            raise self._too_few(asked)
        state = self.strategy.step(old, combined)
        metrics = self.train_metrics_aggr_fn(common(list(asked.used.values())), self.weighted_by_key)
        metrics["bytes-up"], metrics["bytes-down"] = asked.bytes_up, self._bytes_down
        if combined.measured and not self.strategy.traits.keeps:
            metrics["aggregation-error"] = served_error(combined, old, state)
        self.state = state
        self._used |= dict.fromkeys(asked.used, server_round)
        return self.arrays_of(state), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The newest state, with the round's order: clients load it as they load what they train from."""
        messages = super().configure_evaluate(server_round, arrays, ConfigRecord(dict(config)), grid)
        order = self.order(server_round)
        return [self._with_order(message, order) for message in messages]

    def summary(self) -> None:
        """FedAvg's, with the strategy's paper."""
        log(INFO, "\t├──> %s, arXiv %s", self.name, self.strategy.traits.paper.removeprefix("arXiv "))
        super().summary()

    def order(self, number: int) -> Order:
        """What clients are asked for in a round, but for what is each node's own."""
        traits, wire = self.strategy.traits, self.recipe.wire
        if traits.redraws:
            wire = wire.model_copy(update={"error_feedback": False})
        return Order(
            run=self._run,
            strategy=self.name,
            round=number,
            rounds=self._rounds,
            trains=tuple(sorted(self.strategy.trains(number))),
            keeps=tuple(sorted(traits.keeps)),
            base_version=0 if self.state is None else self.state.base_version,
            steady=traits.fixed_coordinates,
            lora_alpha=self.ours.lora_alpha if traits.moves_base else None,
            use_rslora=self.ours.use_rslora,
            wire=None if self.ours.wire is None else wire,
        )

    def arrays_of(self, state: State) -> ArrayRecord:
        """A state as it travels: by PEFT's names, with all that was ever added to the base, for a client that has it
        from nowhere else. Of types that Flower's own readers refuse, once there is such a thing."""
        payload = self.strategy.broadcast(state, Recipient("", held_version=None))
        sent = payload.adapter.tensors(frozenset(Factor) - self.strategy.traits.keeps)
        stype = MOVED_STYPE if payload.residual else NUMPY_STYPE
        tensors = state_tensors(sent, payload.residual)
        return ArrayRecord({name: array_of(tensor, stype) for name, tensor in tensors.items()})

    def _begun(self, arrays: ArrayRecord) -> State:
        adapter = adapter_of(named_tensors(arrays), self._scale)
        cored = all(layer.R_rr is not None for layer in adapter.layers.values())
        if (Factor.R in self.strategy.trains(1)) != cored:
            raise SettingsError(
                f"{type(self).__name__} averages a core R between fixed A and B, which PEFT's LoRA has not: put one in "
                "on both sides, initial_arrays=ArrayRecord(fedlora.flower.add_core(model))."
                if not cored
                else f"the arrays hold a core lora_R, which {type(self).__name__} does not train; take FedSB."
            )
        return self.strategy.init(adapter.with_tensors({n: at_least_float(t) for n, t in adapter.tensors().items()}))

    def _scale(self, name: str, rank: int) -> float:
        if self.ours.lora_alpha is None:
            return 1.0  # only ratios of ΔW matter then
        return scale_of(AdapterSettings(r=rank, alpha=self.ours.lora_alpha, rslora=self.ours.use_rslora), rank)

    def _with_order(self, message: Message, order: Order) -> Message:
        node = message.metadata.dst_node_id
        own = order.model_copy(update={"used_round": self._used.get(node, 0)})
        config = ConfigRecord(dict(message.content.config_records[self.configrecord_key]))
        config[JSON_KEY] = own.model_dump_json()
        content = RecordDict({**message.content, self.configrecord_key: config})
        return Message(content=content, message_type=message.metadata.message_type, dst_node_id=node)

    def _too_few(self, asked: Answers) -> RunError:
        why = "".join(f"\n  {line}" for line in asked.refused[:5])
        silent = len(asked.nodes) - len(asked.used) - len(asked.refused)
        return RunError(
            f"round {asked.order.round}: {len(asked.used)} of {len(asked.nodes)} clients gave an answer that can be "
            f"used, and {self.ours.quorum:.0%} are needed (quorum=); {max(0, silent)} gave none.{why}"
        )


def require_known(name: str, arguments: Mapping[str, Any]) -> None:
    """SettingsError, with the nearest name, for an argument of nobody."""
    known = {*FLOWERS, *OURS, *STRATEGIES[name].model_fields, "server_optimizer"}
    for key in arguments:
        if key not in known:
            near = nearest(key, sorted(known))
            guess = f"did you mean {near}=?" if near else f"known: {', '.join(sorted(known))}."
            raise SettingsError(f"unknown argument {key}; {guess}")


def recipe_of(name: str, options: Mapping[str, Any], ours: Arguments) -> Recipe:
    """The same as a recipe, for the table of what goes with what."""
    cored = Factor.R in STRATEGIES[name]().trains(1)  # type: ignore[attr-defined]  # every registered one is a Strategy
    return parse(
        Recipe,
        {
            "strategy": {"name": name, **options},
            "adapter": {"kind": "lora_xs" if cored else "lora"},
            "wire": dict(ours.wire or {}),
            "rounds": {"quorum": ours.quorum, "max_update_norm": ours.max_update_norm, "max_weight": ours.max_weight},
        },
    )


def common(records: list[RecordDict]) -> list[RecordDict]:
    """Only the metrics that everybody gave, as a number or as a list of one length."""
    given = [record.metric_records["metrics"] for record in records]
    shapes = [{key: kind_of(value) for key, value in metrics.items()} for metrics in given]
    shared = {key for key, shape in shapes[0].items() if all(other.get(key) == shape for other in shapes)}
    kept = ({key: value for key, value in metrics.items() if key in shared} for metrics in given)
    return [RecordDict({"metrics": MetricRecord(metrics)}) for metrics in kept]


def kind_of(value: object) -> int:
    """-1 for a number, else the length of a list."""
    return len(value) if isinstance(value, list) else -1


def array_of(tensor: torch.Tensor, stype: str) -> Array:
    data = bytes_of(tensor)
    dtype = "float32" if tensor.dtype == torch.bfloat16 else str(tensor.dtype).removeprefix("torch.")
    return Array(dtype=dtype, shape=tuple(tensor.shape), stype=stype, data=data)


def at_least_float(tensor: torch.Tensor) -> torch.Tensor:
    """In float32 or finer, as aggregation keeps it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def of_registry(name: str) -> type[OwnApp]:
    """The class of a registered strategy, under its own name."""
    settings = STRATEGIES[name]
    said = inspect.getdoc(settings) or ""
    about = f"{said}\n\nArguments: Flower's FedAvg's, `Arguments`, and: {', '.join(settings.model_fields)}."
    return type(settings.__name__, (OwnApp,), {"name": name, "__doc__": about, "__module__": "fedlora.flower"})


OWN_APPS: dict[str, type[OwnApp]] = {STRATEGIES[name].__name__: of_registry(name) for name in STRATEGIES}
"""Every strategy of the registry by the name of its class."""
