"""What is trained and sent, by name: settings speak of it, and need no torch for it."""

from __future__ import annotations

from enum import StrEnum

DENSE_SEPARATOR = "/"
"""In flat names: between the path of a module that trains whole and its parameter."""


class Factor(StrEnum):
    """What a strategy trains and sends: the factors of every adapted matrix, and what trains whole."""

    A = "A"
    B = "B"
    R = "R"
    DENSE = "head"
    """Modules that train whole, such as a classifier (`fedlora.adapters.dense`). In messages and recipes: head."""


def factor_of(name: str) -> Factor:
    """The factor that a flat name belongs to.

    >>> factor_of("layer.0.query.B"), factor_of("head/weight")
    (<Factor.B: 'B'>, <Factor.DENSE: 'head'>)
    """
    return Factor.DENSE if DENSE_SEPARATOR in name else Factor(name.rpartition(".")[2])
