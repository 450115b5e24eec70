"""An update-norm bound: no single update moves the model by more than `bound`, measured on ΔW.

Sun et al., "Can You Really Backdoor Federated Learning?", arXiv 1911.07963 (norm thresholding).

Where only one factor moves, a clipped update is the update scaled. Where A and B both move, c·(ΔW_k - ΔW) has rank 2r
and cannot be sent as factors of rank r; instead the factors go back towards what was sent, both by the same t:

    D(t) = t P + t² Q,    P = (L_k - L) A + L (A_k - A),    Q = (L_k - L)(A_k - A)

whose norm is a quartic in t, from three inner products per matrix. Guarantee: the norm of what is handed on is at most
`bound` (up to float32 rounding); an update within the bound is handed on unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable

from fedlora.lowrank import Product, stack
from fedlora.norms import gram
from fedlora.updates import Adapter, Factor, LowRank, Update, add, norm, subtract

HALVINGS = 60


def clip(update: Update, sent: Adapter, trains: Iterable[Factor], *, bound: float) -> Update:
    """The update with its factors pulled back until the change of ΔW is at most `bound`."""
    start = sent.tensors(trains)
    t = largest_share(update.adapter, sent, bound=bound)
    delta = subtract(update.adapter.tensors(trains), start)
    return Update(update.client, update.weight, sent.with_tensors(add(start, delta, scale=t)))


def largest_share(after: Adapter, sent: Adapter, *, bound: float) -> float:
    """A t in [0, 1] at which ‖D(t)‖ reaches `bound`, by bisection from below; 1 where it does not."""
    pp, pq, qq = 0.0, 0.0, 0.0
    for name, layer in after.layers.items():
        inner = gram(first_and_second_order(layer, sent.layers[name]))
        pp, pq, qq = pp + float(inner[0, 0]), pq + float(inner[0, 1]), qq + float(inner[1, 1])
    pp += norm(subtract(after.tensors([Factor.DENSE]), sent.tensors([Factor.DENSE]))) ** 2

    def squared(t: float) -> float:
        return t**2 * (pp + 2 * t * pq + t**2 * qq)

    low, high = 0.0, 1.0
    if squared(high) <= bound**2:
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if squared(middle) <= bound**2 else (low, middle)
    return low


def first_and_second_order(after: LowRank, sent: LowRank) -> tuple[Product, Product]:
    """P and Q of one matrix."""
    L_mr, A_rn = sent.left_mr(), sent.A_rn.double()
    dL_mr, dA_rn = after.left_mr() - L_mr, after.A_rn.double() - A_rn
    return stack([Product(dL_mr, A_rn), Product(L_mr, dA_rn)]), Product(dL_mr, dA_rn)
