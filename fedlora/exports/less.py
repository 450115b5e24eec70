"""Less of an adapter: W0 + λ ΔW, exactly, for every form that an adapter is written in.

It forgets less and has learnt less: a remedy to try, and no promise. It is another adapter than the one that was
measured, so no figure of that one goes along: neither what the run measured nor that the gate let it pass. What
somebody went past stays on the card.
"""

from __future__ import annotations

from dataclasses import replace

from fedlora.exports.source import Source
from fedlora.lowrank import scaled
from fedlora.settings import SettingsError


def less_of(source: Source, scale: float) -> Source:
    """With λ = `scale` in the factors; a head that trained whole stays. SettingsError outside (0, 1]."""
    if not 0 < scale <= 1:
        raise SettingsError(f"--scale {scale:g}: it is above 0 (of 0 there is nothing to write) and at most 1.")
    if scale == 1:
        return source
    about, gate = source.about, source.about.gate
    made = about.made and about.made.model_copy(update={"evaluation": None})
    about = replace(about, made=made, gate=gate if gate and gate.overrides else None, scale=about.scale * scale)
    products = {name: scaled(product, scale) for name, product in source.products.items()}
    return replace(source, products=products, about=about)
