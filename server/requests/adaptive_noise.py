"""Noise that shrinks where the model falls short: more of a run's budget goes to the rounds that need it.

Sites begin with more noise than their budget demands, and each round that ends worse than wanted makes the next ones
less noisy. What is adapted costs: every site prices each round at the noise it had, by a filter that stays valid when
noise is chosen along the way (`fedlora.privacy.accounting.filtered_epsilon`), and never adds less than what the
rest of its budget can bear. What is followed is the figure that the task's runs are compared by, of released adapters
on the coordinator's own examples, which are taken as public; a client's data are never asked.

Source: Sheth et al., FedMentor: Domain-Aware Differential Privacy for Heterogeneous Federated LLMs (arXiv 2509.14275).
Unlike there, the adaptation is accounted, and it cannot pass a site's own ε.
"""

from __future__ import annotations

from collections.abc import Iterable

from fedlora.config.privacy import AdaptSettings
from fedlora.tasks.metric import Metric


def noise_factor(adapt: AdaptSettings, metric: Metric, values: Iterable[float]) -> float:
    """What to multiply the calibrated σ by, after rounds with these values of the task's metric.

    >>> wanted, right = AdaptSettings(below=0.8, start=1.5, by=0.8, least=1.0), Metric("right")
    >>> [round(noise_factor(wanted, right, [0.7] * rounds), 3) for rounds in range(4)]
    [1.5, 1.2, 1.0, 1.0]
    >>> noise_factor(wanted, right, [0.9, 0.95])
    1.5
    """
    short = sum(metric.better(adapt.below, value) for value in values)
    return max(adapt.least, adapt.start * adapt.by**short)
