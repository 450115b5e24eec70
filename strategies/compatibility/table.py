"""The table of settings that may not be combined. A new feature that does not work with another one gets a rule here.

Read by `server/coordinate.py` and `server/rounds.py` before anything is sent, by a simulation before its data are read,
by `fedlora config check`, by a coordinator before a run is submitted (`server/runs/preflight.py`), by
docs/combinations.md, and by a test that tries every pair of settings named here.
"""

from __future__ import annotations

from fedlora.config.clients.robust import COORDINATE_RULES
from fedlora.factor import Factor
from fedlora.tasks.metric import SHARE
from strategies.compatibility.case import Place
from strategies.compatibility.places import PLACE
from strategies.compatibility.rule import Rule
from strategies.compatibility.training import TRAINING

CLIENT_LEVEL = "privacy.client_level={clip: 1.0, noise_multiplier: 1.0, clients: 4}"
FROM_CLIENTS = ("strategy.name=fedsb", "adapter.kind=lora_xs", "adapter.init=client-gradients")

STRATEGY = (
    Rule(
        name="a core needs lora_xs",
        when=lambda c: Factor.R in c.strategy.trains(1),
        unless=lambda c: c.recipe.adapter.kind == "lora_xs",
        because="strategy {c.name} trains a core R, but adapter.kind={c.recipe.adapter.kind} has none;",
        instead="set adapter.kind=lora_xs.",
        example=("strategy.name=fedsb", "adapter.kind=lora"),
    ),
    Rule(
        name="lora_xs needs a core",
        when=lambda c: c.recipe.adapter.kind == "lora_xs",
        unless=lambda c: Factor.R in c.strategy.trains(1),
        because="strategy {c.name} trains A or B, but adapter.kind={c.recipe.adapter.kind} trains only a core;",
        instead="set adapter.kind=lora.",
        example=("strategy.name=fedsvd", "adapter.kind=lora_xs"),
    ),
    Rule(
        name="a first step needs a head that is not zero",
        when=lambda c: c.recipe.adapter.init in ("gradient", "client-gradients") and c.starts_closed,
        because="the head of model.task={c.recipe.model.task} starts at zero, and so the first gradient is zero;",
        instead="use adapter.init=kaiming or orthonormal.",
        example=(*FROM_CLIENTS, "adapter.first_step.batch_size=64", "model.task=image-classification"),
    ),
    Rule(
        name="a head that starts at zero trains",
        when=lambda c: c.recipe.train.head == "frozen" and c.starts_closed,
        because="the head of model.task={c.recipe.model.task} starts at zero and train.head=frozen keeps it there;",
        instead="remove it.",
        example=("train.head=frozen", "model.task=image-classification"),
    ),
    Rule(
        name="moments need coordinates",
        when=lambda c: c.optimizes,
        unless=lambda c: c.traits.fixed_coordinates,
        because="strategy.server_optimizer needs a strategy whose factors keep their coordinates from round to round; "
        "{c.name} re-factors, redraws or refines them.",
        instead="Use one of: {having.fixed_coordinates}; or remove strategy.server_optimizer.",
        example=("strategy.name=fedsvd", "strategy.server_optimizer.name=fedadam"),
    ),
    Rule(
        name="unequal devices need unequal ranks",
        when=lambda c: c.recipe.devices,
        unless=lambda c: c.traits.unequal_ranks,
        because="strategy {c.name} averages factors of one shape and cannot serve unequal devices; remove `devices`,",
        instead="or choose one of: {having.unequal_ranks}.",
        example=("strategy.name=fedsvd", "devices.others.r=4"),
    ),
    Rule(
        name="a base that moves has room",
        when=lambda c: c.quantised and c.traits.moves_base,
        because="strategy {c.name} adds a residual to the base's matrices in every round, and "
        "{c.few_bits} holds them in so few bits that most of it would be rounded away;",
        instead="use a strategy that moves no base (fedit, fedsvd and others: `fedlora strategies`), or "
        "model.load_dtype=bfloat16.",
        example=("strategy.name=fedex", "model.load_dtype=nf4"),
    ),
    Rule(
        name="a first step has the base's gradient",
        when=lambda c: c.quantised and c.recipe.adapter.init in ("gradient", "client-gradients"),
        because="adapter.init={c.recipe.adapter.init} begins with the gradient of the base's matrices, and with "
        "{c.few_bits} they have none;",
        instead="use adapter.init=kaiming or orthonormal, or model.load_dtype=bfloat16.",
        example=(*FROM_CLIENTS, "adapter.first_step.batch_size=64", "model.load_dtype=nf4"),
    ),
    Rule(
        name="changes need a base that stands",
        when=lambda c: c.recipe.wire.download == "changes",
        unless=lambda c: not c.traits.moves_base,
        because="wire.download: changes does not work with strategy {c.name}, which moves the base "
        "model: the residual it adds must fit the served adapter exactly.",
        instead="Use wire.download=whole.",
        example=("strategy.name=fedex", "wire.download=changes"),
    ),
    Rule(
        name="changes need one state",
        when=lambda c: c.recipe.wire.download == "changes" and c.recipe.devices,
        because="wire.download: changes needs one state for all clients, but with `devices` each client gets its "
        "own part of it.",
        instead="Use wire.download=whole.",
        example=("strategy.name=hetlora", "wire.download=changes", "devices.others.r=4"),
    ),
)

PRIVACY = (
    Rule(
        name="personal models need metrics",
        when=lambda c: c.traits.keeps and c.recipe.privacy.enabled,
        unless=lambda c: c.recipe.privacy.report_metrics,
        because="strategy {c.name} has no global model: its quality is what clients report about their own models, and "
        "with privacy they do not report it.",
        instead="Set privacy.report_metrics=true (and let the sites' policies allow it).",
        example=("strategy.name=fedsa", "privacy.epsilon=3"),
    ),
    Rule(
        name="an example more pushes none out",
        when=lambda c: c.recipe.data.max_examples is not None and c.recipe.privacy.enabled,
        because="data.max_examples and example-level privacy exclude each other: one more example pushes another one "
        "out, and the noise covers one change, not two.",
        instead="Use data.train_fraction, which decides for each example separately.",
        example=("data.max_examples=10", "privacy.epsilon=3"),
    ),
    Rule(
        name="private steps do not drop",
        when=lambda c: c.recipe.adapter.dropout > 0 and c.recipe.privacy.enabled,
        because="adapter.dropout={c.recipe.adapter.dropout} and privacy exclude each other: dropout masks make every "
        "example's gradient depend on the other examples drawn, so that one example could change the sum by more "
        "than privacy.clip.",
        instead="Remove adapter.dropout; the base model's own dropout is off in private steps.",
        example=("adapter.dropout=0.1", "privacy.epsilon=3"),
    ),
    Rule(
        name="a first step is as private as the rounds",
        when=lambda c: c.recipe.adapter.init == "client-gradients",
        unless=lambda c: c.recipe.privacy.enabled == c.starts_privately,
        because="adapter.first_step.epsilon and privacy must be used together: a first step without privacy would "
        "reveal what the rounds protect, and the reverse;",
        instead="set a budget for both, or for neither.",
        example=(*FROM_CLIENTS, "adapter.first_step.batch_size=64", "privacy.epsilon=3"),
    ),
    Rule(
        name="a first step is not clipped by client",
        when=lambda c: c.recipe.adapter.init == "client-gradients" and c.recipe.privacy.client_level,
        because="init: client-gradients sends whole gradients, which privacy.client_level does not clip;",
        instead="use init: gradient with public data, or another init.",
        example=(*FROM_CLIENTS, "adapter.first_step.batch_size=64", CLIENT_LEVEL),
    ),
    Rule(
        name="client-level noise covers sums",
        when=lambda c: c.recipe.privacy.client_level,
        unless=lambda c: c.traits.linear_uploads,
        because="privacy.client_level needs a strategy that uses only sums of updates, but {c.name} uses "
        "single updates.",
        instead="Choose one of: {having.linear_uploads}; or example-level privacy (privacy.epsilon).",
        example=("strategy.name=fedex", CLIENT_LEVEL),
    ),
    Rule(
        name="client-level noise has a denominator",
        when=lambda c: c.recipe.privacy.client_level,
        unless=lambda c: c.recipe.expected_clients is not None,
        because="privacy.client_level needs a denominator that does not depend on who is connected;",
        instead="set privacy.client_level.clients to the number of clients that a round asks.",
        example=("privacy.client_level={clip: 1.0, noise_multiplier: 1.0}", "data.partition=natural"),
    ),
    Rule(
        name="a client-level delta is below one client's share",
        when=lambda c: c.client_level_delta * (c.recipe.expected_clients or 0) >= 1,
        because="privacy.client_level.delta={c.client_level_delta} is not below 1 / "
        "{c.recipe.expected_clients} (the clients that a round asks);",
        instead="lower it.",
        example=(
            "privacy.client_level={clip: 1.0, noise_multiplier: 1.0, delta: 0.5}", "data.partition=iid",
            "data.clients=8",
        ),
    ),
    Rule(
        name="noise adapts to a global model",
        when=lambda c: c.recipe.privacy.adapt and c.traits.keeps,
        because="privacy.adapt follows the quality on the coordinator's own public examples, but strategy "
        "{c.name} has no global model to evaluate;",
        instead="choose a strategy with one, or remove privacy.adapt.",
        example=(
            "strategy.name=fedsa", "privacy.epsilon=3", "privacy.report_metrics=true", "privacy.adapt={below: 0.8}",
        ),
    ),
    Rule(
        name="noise adapts to public examples",
        when=lambda c: c.recipe.privacy.adapt,
        unless=lambda c: c.place.evaluates,
        because="privacy.adapt follows the quality on the coordinator's own public examples, but there are none:",
        instead="set held_out in server.yaml, or remove privacy.adapt.",
        example=("privacy.epsilon=3", "privacy.adapt={below: 0.8}"),
        where=Place(engine="sites", evaluates=False),
    ),
    Rule(
        name="a share is never above one",
        when=lambda c: c.recipe.privacy.adapt and c.recipe.privacy.adapt.below >= 1,
        unless=lambda c: c.metric.unit != SHARE,
        because="privacy.adapt.below={c.recipe.privacy.adapt.below} can never be reached: {c.metric.words} "
        "is at most 1;",
        instead="set a value below 1.",
        example=("privacy.epsilon=3", "privacy.adapt={below: 1.5}"),
    ),
)  # fmt: skip

ROBUST = (
    Rule(
        name="coordinates need linear uploads",
        when=lambda c: c.recipe.robust.rule in COORDINATE_RULES,
        unless=lambda c: c.traits.linear_uploads,
        because="robust.rule={c.recipe.robust.rule} combines every coordinate separately, but {c.name} "
        "needs complete updates: it uses their products.",
        instead="Choose robust.rule=screen or multi-krum, or a strategy whose uploads are linear: "
        "{having.linear_uploads}.",
        example=("strategy.name=fedex", "robust.rule=median"),
    ),
    Rule(
        name="products are measured where they are whole",
        when=lambda c: c.recipe.robust.on_products and c.traits.keeps,
        because="{c.measured} measures ΔW, but with {c.name} every site has its own ΔW, part of which ({c.keeps}) "
        "never leaves it.",
        instead="Choose robust.rule=median or trimmed-mean, or another strategy.",
        example=("strategy.name=fedsa", "robust.norm_bound=1"),
    ),
    Rule(
        name="noise does not cover a robust rule",
        when=lambda c: c.recipe.robust.enabled and c.recipe.privacy.client_level,
        because="robust and privacy.client_level exclude each other: the noise covers what one clipped update can "
        "change in a sum, but a rule that compares updates has no such bound.",
        instead="Remove one of them.",
        example=("robust.rule=screen", CLIENT_LEVEL),
    ),
    Rule(
        name="unequal updates cannot be compared",
        when=lambda c: c.recipe.robust.enabled and c.recipe.devices,
        because="robust compares complete updates, but clients of different rank or depth send different ones: "
        "every small device would look like an outlier.",
        instead="Remove `devices`, or robust.norm_bound and robust.rule.",
        example=("strategy.name=flexlora", "devices.others.r=4", "robust.norm_bound=1"),
    ),
    Rule(
        name="one client has nobody to compare with",
        when=lambda c: c.recipe.robust.rule != "mean" and c.recipe.mode != "federated",
        because="robust.rule={c.recipe.robust.rule} compares clients, but mode={c.recipe.mode} has only one;",
        instead="remove it.",
        example=("robust.rule=screen", "mode=alone"),
    ),
    Rule(
        name="enough are asked for a robust rule",
        when=lambda c: c.recipe.robust.enabled,
        unless=lambda c: c.asked is None or c.asked >= c.recipe.robust.least_updates,
        because="{c.recipe.robust.precondition}, but a round asks {c.asked} clients.",
        instead="Ask more of them (rounds.fraction, data.clients), or lower robust.attackers.",
        example=("robust.rule=multi-krum", "data.partition=iid", "data.clients=4"),
    ),
)

RULES = (*STRATEGY, *TRAINING, *PRIVACY, *ROBUST, *PLACE)
