"""The table's second part: settings that have no effect in combination with others, although a user may rely on them.

Refused when a user starts a run. A run that has started is not stopped by them.
"""

from __future__ import annotations

from fedlora.config import DataSettings, TrainSettings
from fedlora.config.preference import PreferenceSettings
from fedlora.data.packaged import is_packaged
from fedlora.tasks.registry import has_classes, takes_settings
from strategies.compatibility.case import Case
from strategies.compatibility.rule import Holds, Rule

COLUMNS = ("text", "label", "client_column")


def _idle(setting: str, when: Holds, *, beside: str, instead: str, example: tuple[str, ...]) -> Rule:
    """A rule for a setting without effect: the setting as text, the one that disables it, and what to use instead of
    either."""
    return Rule(
        name=f"{example[0].partition('=')[0]} does something",
        when=when,
        because=f"{setting} has no effect with {beside}.",
        instead=f"Remove it, or use {instead}.",
        example=example,
    )


def _named(case: Case, column: str) -> bool:
    """Whether `data` says which column it is."""
    return bool(getattr(case.recipe.data, column) != DataSettings.model_fields[column].default)


TRAINING = (
    _idle(
        "train.momentum={c.recipe.train.momentum:g}",
        lambda c: c.recipe.train.momentum and c.recipe.train.optimizer == "adamw",
        beside="train.optimizer=adamw",
        instead="train.optimizer=sgd",
        example=("train.momentum=0.9", "train.optimizer=adamw"),
    ),
    _idle(
        "train.weight_decay={c.recipe.train.weight_decay:g}",
        lambda c: c.recipe.train.weight_decay and c.recipe.train.optimizer == "sgd",
        beside="train.optimizer=sgd",
        instead="train.optimizer=adamw",
        example=("train.weight_decay=0.1", "train.optimizer=sgd"),
    ),
    _idle(
        "train.max_grad_norm={c.recipe.train.max_grad_norm:g}",
        lambda c: c.recipe.train.max_grad_norm is not None and c.recipe.privacy.enabled,
        beside="privacy, which clips every example",
        instead="privacy.clip instead",
        example=("train.max_grad_norm=1", "privacy.epsilon=3"),
    ),
    _idle(
        "train.head_lr={c.recipe.train.head_lr:g}",
        lambda c: c.recipe.train.head_lr is not None and c.recipe.train.head == "frozen",
        beside="train.head=frozen",
        instead="train.head=train",
        example=("train.head_lr=0.1", "train.head=frozen"),
    ),
    _idle(
        "train.optimizer_state=keep",
        lambda c: c.recipe.train.optimizer_state == "keep" and c.forgets,
        beside="train.optimizer=sgd without train.momentum, which remembers nothing",
        instead="train.optimizer=adamw",
        example=("train.optimizer_state=keep", "train.optimizer=sgd", "strategy.name=fedit"),
    ),
    _idle(
        "train.schedule={c.recipe.train.schedule}",
        lambda c: c.recipe.train.schedule != "constant" and c.units == 1,
        beside="one of the {c.recipe.train.schedule_over} alone",
        instead="train.schedule_over=steps, or more rounds",
        example=("train.schedule=cosine", "rounds.count=1"),
    ),
    _idle(
        "train.schedule_over={c.recipe.train.schedule_over}",
        lambda c: c.recipe.train.schedule_over != "rounds" and c.steady and not c.recipe.train.warmup,
        beside="train.schedule=constant and no train.warmup",
        instead="train.schedule=cosine",
        example=("train.schedule_over=steps", "train.schedule=constant"),
    ),
    _idle(
        "train.min_lr_rate={c.recipe.train.min_lr_rate:g}",
        lambda c: c.steady and c.recipe.train.min_lr_rate != TrainSettings.model_fields["min_lr_rate"].default,
        beside="train.schedule=constant",
        instead="train.schedule=cosine",
        example=("train.min_lr_rate=0.5", "train.schedule=constant"),
    ),
    _idle(
        "train.order=continue",
        lambda c: c.recipe.train.order == "continue" and c.goes_on_nowhere,
        beside="{c.goes_on_nowhere}",
        instead="train.steps without privacy",
        example=("train.order=continue", "privacy.epsilon=3"),
    ),
    _idle(
        "train.proximal_mu={c.recipe.train.proximal_mu:g}",
        lambda c: c.recipe.train.proximal_mu and c.recipe.train.steps == 1 and c.recipe.mode != "pooled",
        beside="train.steps=1: a round's first step starts at what was received",
        instead="more train.steps",
        example=("train.proximal_mu=0.1", "train.steps=1"),
    ),
    _idle(
        "model.preference",
        lambda c: c.recipe.model.preference != PreferenceSettings() and not takes_settings(c.recipe.model.task),
        beside="model.task={c.recipe.model.task}",
        instead="model.task=preference",
        example=("model.preference.beta=0.5", "model.task=sequence-classification"),
    ),
    _idle(
        "model.preference.loss=orpo",
        lambda c: c.recipe.model.preference.loss == "orpo" and c.preference_loss == "kto",
        beside="model.task=unpaired-preference: it compares two answers, and those stand alone",
        instead="model.task=preference",
        example=("model.preference.loss=orpo", "model.task=unpaired-preference"),
    ),
    _idle(
        "{c.idle_preferences}",
        lambda c: c.idle_preferences,
        beside="the loss {c.preference_loss}",
        instead="another model.preference.loss",
        example=("model.preference.label_smoothing=0.1", "model.task=preference", "model.preference.loss=orpo"),
    ),
    _idle(
        "adapter.public",
        lambda c: c.recipe.adapter.public is not None and c.recipe.adapter.init != "gradient",
        beside="adapter.init={c.recipe.adapter.init}",
        instead="adapter.init=gradient",
        example=("adapter.public.source=airlines", "adapter.init=kaiming"),
    ),
    _idle(
        "adapter.first_step",
        lambda c: c.recipe.adapter.first_step is not None and c.recipe.adapter.init != "client-gradients",
        beside="adapter.init={c.recipe.adapter.init}",
        instead="adapter.init=client-gradients",
        example=("adapter.first_step.batch_size=64", "adapter.init=kaiming"),
    ),
)

FEDERATION = (
    _idle(
        "rounds.generate",
        lambda c: c.recipe.rounds.generate and c.answers_nothing,
        beside="{c.answers_nothing}",
        instead="a run of causal-lm that ends with one model",
        example=("rounds.generate={examples: 4}", "model.task=sequence-classification"),
    ),
    _idle(
        "{c.idle_densities}",
        lambda c: c.idle_densities,
        beside="strategy.name={c.name} and train.head={c.recipe.train.head}: no client sends it",
        instead="settings that train it",
        example=("wire.densities.A=0.5", "strategy.name=fedsvd"),
    ),
    _idle(
        "strategy.weighting=tokens",
        lambda c: c.recipe.strategy.weighs_tokens and c.alike is not None,
        beside="{c.alike}: clients are not weighted by what they have",
        instead="a mean that is weighted",
        example=("strategy.weighting=tokens", "model.task=causal-lm", "robust.norm_bound=1"),
    ),
    _idle(
        "rounds.max_weight={c.recipe.rounds.max_weight}",
        lambda c: c.recipe.rounds.max_weight is not None and c.alike is not None,
        beside="{c.alike}: clients are not weighted by their number of examples",
        instead="a mean that is weighted by examples",
        example=("rounds.max_weight=100", "strategy.name=hetlora"),
    ),
)

DATA = (
    *(
        _idle(
            f"data.{column}={{c.recipe.data.{column}}}",
            lambda c, column=column: is_packaged(c.recipe.data.source) and _named(c, column),  # type: ignore[misc]
            beside="data.source={c.recipe.data.source}, which is a packaged corpus",
            instead="data.source with the path of your own file",
            example=(f"data.{column}=tweet", "data.source=airlines"),
        )
        for column in COLUMNS
    ),
    _idle(
        "data.labels",
        lambda c: c.recipe.data.labels is not None and not has_classes(c.recipe.model.task),
        beside="model.task={c.recipe.model.task}: its rows have no classes",
        instead="a task with classes",
        example=("data.labels=[a, b]", "model.task=causal-lm"),
    ),
    _idle(
        "data.clients={c.recipe.data.clients}",
        lambda c: c.recipe.data.clients is not None and c.recipe.data.partition == "natural",
        beside="data.partition=natural: clients are those of data.client_column {c.recipe.data.client_column!r}",
        instead="data.partition=iid, dirichlet or label",
        example=("data.clients=4", "data.partition=natural"),
    ),
    _idle(
        "data.alpha={c.recipe.data.alpha:g}",
        lambda c: c.recipe.data.partition != "dirichlet" and _named(c, "alpha"),
        beside="data.partition={c.recipe.data.partition}",
        instead="data.partition=dirichlet",
        example=("data.alpha=0.1", "data.partition=natural"),
    ),
)

WITHOUT_EFFECT = (*TRAINING, *FEDERATION, *DATA)
