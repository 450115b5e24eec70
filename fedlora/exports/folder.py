"""A PEFT adapter folder that means the same to PEFT, vLLM, llama.cpp and Ollama (`fedlora.adapters.uniform`).

    adapter_config.json         one rank, lora_alpha as large, no patterns; the base by id and revision
    adapter_model.safetensors   A and B of every matrix, in float32
    head.safetensors            a module that trained whole, by its own name: no server but PEFT's own knows of it
    fedlora.json README.md      task, classes, base; the hub's card and the lines that load it; NOTICE if terms want it

Guarantee: no path of this machine is in any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save
from torch import Tensor

from fedlora.adapters.peft_names import by_peft_key
from fedlora.adapters.uniform import Uniform
from fedlora.exports.about import About
from fedlora.exports.readme import adapter_readme
from fedlora.files import write_atomically
from fedlora.updates import DENSE_SEPARATOR, Tensors

TENSORS = "adapter_model.safetensors"
"""Of every tensor's name, as PEFT saves it."""


def write_folder(folder: Path, change: Uniform, dense: Tensors, about: About) -> None:
    """The folder, for servers and for PEFT alike; `dense`, by flat names, is beside the adapter."""
    modules = dense_modules(dense)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, change, about)
    write_atomically(folder / TENSORS, save(lora_tensors(change)))
    for path, parameters in modules.items():
        write_atomically(folder / f"{path}.safetensors", save(parameters))
    about.write(folder, rank=change.rank, left_out=change.left_out)
    about.write_notice(folder)
    write_atomically(folder / "README.md", adapter_readme(about, change, beside=tuple(modules)).encode())


def write_for_peft(folder: Path, change: Uniform, dense: Tensors, about: About) -> None:
    """The folder with `dense` in it, as PEFT's modules_to_save, where the model has such modules of its own: what
    AutoPeftModel loads whole, and every server refuses. Otherwise as `write_folder`."""
    if not about.usage.owns_dense:
        write_folder(folder, change, dense, about)
        return
    modules = tuple(dense_modules(dense))
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, change, about, modules_to_save=modules)
    whole = by_peft_key({name: tensor.contiguous() for name, tensor in dense.items()})
    write_atomically(folder / TENSORS, save({**lora_tensors(change), **whole}))
    about.write(folder, rank=change.rank, left_out=change.left_out)
    about.write_notice(folder)
    write_atomically(folder / "README.md", adapter_readme(about, change, inside=modules).encode())


def write_config(folder: Path, change: Uniform, about: About, *, modules_to_save: tuple[str, ...] = ()) -> None:
    """adapter_config.json. `lora_alpha` is a whole number: Ollama reads no other.

    PEFT's own class for a task looks for what trained whole in the folder, so the task is named only where it is there.
    """
    task = about.usage.peft_task if modules_to_save or not about.usage.owns_dense else None
    LoraConfig(
        r=change.rank,
        lora_alpha=change.rank,
        target_modules=sorted(change.factors),
        modules_to_save=list(modules_to_save) or None,
        fan_in_fan_out=about.transposed,
        base_model_name_or_path=about.base.place,
        revision=about.base.revision,
        task_type=task,
        auto_mapping=None if task else dict(about.architecture),
        inference_mode=True,
    ).save_pretrained(str(folder))


def lora_tensors(change: Uniform) -> dict[str, Tensor]:
    """By PEFT's names."""
    factors: dict[str, Tensor] = {}
    for name, (B_mr, A_rn) in change.factors.items():
        factors |= {f"{name}.A": A_rn, f"{name}.B": B_mr}
    return by_peft_key(factors)


def dense_modules(dense: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Of every module that trained whole, by its path, the parameters by their names in it."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in dense.items():
        path, _, parameter = name.partition(DENSE_SEPARATOR)
        found.setdefault(path, {})[parameter] = tensor.contiguous()
    return found
