"""The README.md of an export: the hub's card, the lines that load it, its base and licence, what it cost in privacy."""

from __future__ import annotations

from collections.abc import Sequence

from fedlora.adapters.uniform import RANKS, Uniform
from fedlora.config.model import QUANTISED
from fedlora.exports.about import About
from fedlora.exports.card import card as head
from fedlora.exports.card import credits_said, licence_said
from fedlora.exports.serving import fits_vllm, vllm_line
from fedlora.tasks.usage import Loading

ADAPTER = """# A fine-tuned adapter

Made by fedlora; loads with {by}. In this folder:

```python
{script}```

## The base model

{whereabouts}

## Serving

Every matrix has rank {rank}, `lora_alpha` is {rank} too, and the scale is in B: PEFT, vLLM, llama.cpp and Ollama add
the same to the base.{remarks}
"""

MERGED = """# A fine-tuned model

Made by fedlora: a base with its adapter in the weights, in {dtype}.{rounded}{held} In this folder:

```python
{script}```

## The base model

{whereabouts}
"""

HELD = (
    " The run held its base in {held}, and these are that base's matrices as floating-point numbers: nothing that was "
    "learnt is rounded into few bits, and nothing is of the base before it was quantised."
)

LICENCE = """
## Licence

{said}
"""

PRIVACY = """
## Privacy

{note}
"""


def adapter_readme(about: About, change: Uniform, *, beside: Sequence[str] = (), inside: Sequence[str] = ()) -> str:
    """`beside`: the modules that trained whole, in files of their own; `inside`: those in PEFT's modules_to_save."""
    loading = adapter_loading(about, beside=beside)
    script = about.usage.script(loading, labels=about.labels, max_tokens=about.max_tokens)
    said = remarks(about, change, beside=beside, inside=inside)
    by = "transformers and PEFT, and fedlora for the base" if about.base.is_converted else "plain transformers and PEFT"
    text = ADAPTER.format(by=by, script=script, whereabouts=about.base.whereabouts, rank=change.rank, remarks=said)
    return head(about, relation="adapter", library="peft") + text + licence_section(about) + privacy_section(about)


def merged_readme(about: About, *, dtype: str, off: float) -> str:
    """`off`: how far rounding moved the weights, relative to what the run changed; 0 where it did not."""
    loading = Loading(
        (f"from transformers import {about.usage.auto}",),
        f'folder = base = "."\nmodel = {about.usage.auto}.from_pretrained(folder, dtype=torch.{dtype}).eval()',
    )
    script = about.usage.script(loading, labels=about.labels, max_tokens=about.max_tokens)
    rounded = f" Rounding moved them by {off:.2g} of what was learnt." if off else ""
    held = HELD.format(held=about.base.load_dtype) if about.base.load_dtype in QUANTISED else ""
    rounded = less_said(about) + rounded
    text = MERGED.format(script=script, whereabouts=about.base.whereabouts, dtype=dtype, rounded=rounded, held=held)
    front = head(about, relation="finetune", library="transformers")
    return front + text + licence_section(about) + privacy_section(about)


def less_said(about: About) -> str:
    if about.scale == 1:
        return ""
    part = f"{about.scale:g}"
    return f" It holds {part} of what the run learnt (W0 + {part} ΔW): the run's own figures are not its."


def licence_section(about: About) -> str:
    return LICENCE.format(said=licence_said(about) + credits_said(about))


def privacy_section(about: About) -> str:
    return PRIVACY.format(note=about.privacy) if about.privacy else ""


def adapter_loading(about: About, *, beside: Sequence[str]) -> Loading:
    """The base, what trained whole where the base has a place for it, and the adapter on top."""
    base, auto = about.base, about.usage.auto
    own = list(beside) if about.usage.owns_dense else []
    own_arguments = about.usage.arguments.format(outputs=len(about.labels))
    lines = [
        'folder = "."',
        base.line,
        f"model = {auto}.from_pretrained(base, {base.arguments}{own_arguments})",
        *(
            f'model.get_submodule("{path}").load_state_dict(load_file(f"{{folder}}/{path}.safetensors"))'
            for path in own
        ),
        "model = PeftModel.from_pretrained(model, folder).eval()",
    ]
    classes = ", ".join(sorted((auto, *base.classes)))
    imports = ["from peft import PeftModel", f"from transformers import {classes}", *base.imports]
    if own:
        imports.append("from safetensors.torch import load_file")
    return Loading(tuple(imports), "\n".join(lines), base.at)


def remarks(about: About, change: Uniform, *, beside: Sequence[str], inside: Sequence[str]) -> str:
    """What a person who serves it has to know besides."""
    said = less_said(about)
    if change.left_out:
        said += (
            f" Rank {change.rank} does not hold everything that the run learnt: {change.left_out:.2g} of it is left "
            "out (relative, in the Frobenius norm). `fedlora export --kind merged` of the run's own folder is exact."
        )
    if change.rank > max(RANKS):
        said += (
            f" vLLM serves no rank above {max(RANKS)}: `fedlora export --kind merged` makes a model of it, and "
            f"`fedlora export --rank {max(RANKS)}` the nearest adapter of that rank."
        )
    if beside:
        said += f" Only the lines above know of `{', '.join(beside)}`, which trained whole: no server adds it."
    elif inside:
        said += f" Only PEFT takes `{', '.join(inside)}`, which trained whole: every server refuses this folder."
    elif about.usage.language_servers and fits_vllm(change.rank):
        line = vllm_line(about.base, change.rank, {"fine-tuned": "."})
        said += f"\n\n```sh\n{line}\n```\n\n`fedlora export --kind gguf` writes it for llama.cpp and Ollama."
    return said
