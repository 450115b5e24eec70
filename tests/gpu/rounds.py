"""What a site sends from its device, and a short federated run on it."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fedlora.adapters import read, write
from fedlora.devices.memory import make_room
from fedlora.wire.message import Header, encode
from tests.gpu.shapes import SHAPES, adapted
from tests.gpu.timed import Box, seconds_of


def wire(device: str, size: str, box: Box) -> Iterator[dict[str, Any]]:
    """From parameters on the device to the packed message, and back onto the device."""
    for shape in reversed(SHAPES[size]):
        if not box.has(15.0):
            yield {"what": "wire", "shape": shape.name, "left out": "no time"}
            continue
        model = adapted(shape, device, "bfloat16")
        adapter = read(model)
        told = {"what": "wire", "shape": shape.name, "numbers": sum(t.numel() for t in adapter.tensors().values())}
        told["read_s"] = seconds_of(partial(read, model), device, warm=1, most=3)
        told["write_s"] = seconds_of(partial(write, model, adapter), device, warm=1, most=3)
        header = Header("update", "gpu", 1, "site", "fedit", bytes(16))
        for codec in ("fp32", "int8"):
            blob = encode(adapter.tensors(), header, codec=codec)
            pack = partial(encode, adapter.tensors(), header, codec=codec)
            told |= {f"{codec}_bytes": len(blob), f"{codec}_s": seconds_of(pack, device, warm=0, most=2)}
        yield told
        del model
        make_room()


def federated(device: str, size: str, box: Box) -> Iterator[dict[str, Any]]:
    """Four clients, private rounds of a tiny model; on a GPU also on the CPU, whose figures it must come to."""
    if importlib.util.find_spec("flwr") is None:
        yield {"what": "federated", "left out": "flwr is not there"}
        return
    from fedlora.config.compute import ComputeSettings
    from simulations.run import prepare, simulate
    from tests.federations import PRIVATE, save_messages, save_tiny_model, tiny_recipe

    asked = [*PRIVATE, "privacy.insecure_seed=1", "rounds.count=2"] if size == "full" else ["rounds.count=1"]
    for place in dict.fromkeys((device, "cpu")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model, source = save_tiny_model(folder / "model"), save_messages(folder / "messages.csv")
            recipe = tiny_recipe(model, source, *asked)
            prepared = prepare(recipe, compute=ComputeSettings(device=place))
            summary = simulate(prepared, folder / "run", watch=lambda event: None)
        yield {"what": "federated", "device": place, "loss": summary["loss"], "seconds": summary["seconds"]}
