"""The table's part on what a client does in one round."""

from __future__ import annotations

from strategies.compatibility.rule import Rule

TRAINING = (
    Rule(
        name="private steps are counted",
        when=lambda c: c.recipe.train.local_epochs is not None and c.recipe.privacy.enabled,
        because="train.local_epochs and privacy exclude each other: the number of steps would follow from the number "
        "of a site's rows, which is private, and what a site is charged for would tell it.",
        instead="Use train.steps: every step draws every row with the same probability.",
        example=("train.local_epochs=1", "privacy.epsilon=3"),
    ),
    Rule(
        name="a first step is shared by counted steps",
        when=lambda c: c.recipe.train.local_epochs is not None,
        unless=lambda c: c.recipe.adapter.init not in ("gradient", "client-gradients"),
        because="adapter.init={c.recipe.adapter.init} divides the learning rate by all steps of the run, and with "
        "train.local_epochs only the sites know their number;",
        instead="use train.steps, or another init.",
        example=(
            "strategy.name=fedsb", "adapter.kind=lora_xs", "adapter.init=client-gradients",
            "adapter.first_step.batch_size=64", "train.local_epochs=1",
        ),
    ),
    Rule(
        name="local moments need coordinates",
        when=lambda c: c.recipe.train.optimizer_state == "keep",
        unless=lambda c: c.traits.fixed_coordinates,
        because="train.optimizer_state=keep needs a strategy whose factors keep their coordinates from round to round; "
        "{c.name} re-factors, redraws or refines them, and moments of the round before would mean nothing.",
        instead="Use one of: {having.fixed_coordinates}; or train.optimizer_state=reset.",
        example=("strategy.name=fedsvd", "train.optimizer_state=keep"),
    ),
    Rule(
        name="a warm-up ends",
        when=lambda c: c.units is not None and c.recipe.train.warmup >= c.units,
        because="train.warmup={c.recipe.train.warmup:g} is not below the {c.units} {c.recipe.train.schedule_over} of "
        "the run, which would never come to its whole learning rate;",
        instead="lower it, or raise rounds.count.",
        example=("train.warmup=10",),
    ),
    Rule(
        name="private examples are not packed",
        when=lambda c: c.recipe.train.packing and c.recipe.privacy.enabled,
        because="train.packing and privacy exclude each other: a private step has the gradient of every example by "
        "itself, at a public length of its own, and a row of several examples has one gradient and the length of all.",
        instead="Remove train.packing: the step is the same without.",
        example=("train.packing=true", "model.task=causal-lm", "privacy.epsilon=3"),
    ),
    Rule(
        name="what is packed is text that is learnt",
        when=lambda c: c.recipe.train.packing,
        unless=lambda c: c.packs,
        because="train.packing puts several texts into one row, and model.task={c.recipe.model.task} does not do so;",
        instead="remove it.",
        example=("train.packing=true",),
    ),
    Rule(
        name="tokens are learnt",
        when=lambda c: c.recipe.strategy.weighs_tokens,
        unless=lambda c: c.counts_tokens,
        because="strategy.weighting=tokens counts learnt tokens, and model.task={c.recipe.model.task} has none;",
        instead="use strategy.weighting=examples.",
        example=("strategy.weighting=tokens",),
    ),
    Rule(
        name="private tokens are not counted",
        when=lambda c: c.recipe.strategy.weighs_tokens and c.recipe.privacy.enabled,
        because="strategy.weighting=tokens and privacy exclude each other: how many tokens a site's rows have is "
        "private, and no noise covers it.",
        instead="Use strategy.weighting=examples, which counts each site's public size.",
        example=("strategy.weighting=tokens", "model.task=causal-lm", "privacy.epsilon=3"),
    ),
)  # fmt: skip
