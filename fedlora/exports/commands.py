"""`fedlora export`: a run's result in the form that another program loads."""

from __future__ import annotations

import math
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlora.settings import SettingsError

if TYPE_CHECKING:
    from fedlora.adapters.uniform import Uniform
    from fedlora.exports.source import Source


class Kind(StrEnum):
    """What is written."""

    peft = "peft"
    merged = "merged"
    gguf = "gguf"


class Precision(StrEnum):
    """Of what is written; by torch's names."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Place = Annotated[Path, typer.Argument(help="A run's folder, or an adapter's that was carried here.")]
BasePlace = Annotated[
    str | None,
    typer.Option("--base", help="Where the base model is on this machine, as model.id takes it, if not where it was."),
]
License = Annotated[
    str | None,
    typer.Option("--license", help="What the card says of the licence, as the hub calls it: apache-2.0, ..."),
]
Override = Annotated[
    str | None,
    typer.Option(metavar="REASON", help="Pass on what `fedlora gate` holds; it is written down with your name."),
]


def export(
    run: Place,
    kind: Annotated[
        Kind,
        typer.Option(
            help="peft: an adapter folder, for PEFT and vLLM. merged: a plain model, the adapter in its weights. "
            "gguf: an adapter for llama.cpp and Ollama."
        ),
    ] = Kind.peft,
    out: Annotated[Path | None, typer.Option(help="The folder to write; exports/KIND in RUN when not given.")] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rank of the adapter (peft, gguf), if not the least that holds all; what it leaves out is said."
        ),
    ] = None,
    dtype: Annotated[
        Precision | None, typer.Option(help="Precision of the numbers (merged, gguf); float32 when not given.")
    ] = None,
    scale: Annotated[
        float,
        typer.Option(help="How much of what was learnt is written, above 0 to 1: W0 + scale · ΔW; a head stays whole."),
    ] = 1.0,
    base: BasePlace = None,
    license: License = None,
    override: Override = None,
) -> None:
    """Write the adapter of RUN, or one for each of its clients, for another program, and say how that is started."""
    require_fitting(kind, rank=rank, dtype=dtype)
    from fedlora.exports.less import less_of
    from fedlora.exports.source import sources_in

    folder = out or run / "exports" / kind.value
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder} is there already; remove it, or give another --out.")
    sources = through_gate([under(source, license) for source in sources_in(run, base=base)], override)
    sources = [less_of(source, scale) for source in sources]
    places = {source.name: folder / source.name if len(sources) > 1 else folder for source in sources}
    write = {Kind.peft: write_peft, Kind.merged: write_model, Kind.gguf: write_for_llama_cpp}[kind]
    ranks = [write(source, places[source.name], rank, (dtype or Precision.float32).value) for source in sources]
    typer.echo(f"Written: {', '.join(map(str, places.values()))}")
    if sources[0].about.terms is None:
        typer.echo("Nobody has said under which licence the base is: state it with --license before you publish this.")
    if kind is Kind.peft and sources[0].about.usage.language_servers:
        from fedlora.exports.serving import fits_vllm, vllm_line

        names = {name: str(place) for name, place in places.items()}
        if fits_vllm(max(ranks)):
            typer.echo(f"Serve with: {vllm_line(sources[0].about.base, max(ranks), names)}")


def under(source: Source, license: str | None) -> Source:
    """Under the licence that a person states; SettingsError where the base's own terms leave no choice."""
    if license is None:
        return source
    from fedlora.exports.licences import require_stateable

    require_stateable(source.about.base.id, license)
    return replace(source, about=replace(source.about, license=license))


def through_gate(sources: list[Source], reason: str | None) -> list[Source]:
    """With what the gate found of each. SettingsError where it holds one and there is no reason, or a reason for
    nothing; the reason is written down once all may pass."""
    from fedlora.gate.verdict import gate_in, opened_gate

    if reason is not None and not reason.strip():
        raise SettingsError("--override: say why; the reason is written down.")
    gates = [opened_gate(source.folder, reason) for source in sources]
    past = [
        (source.folder, gate)
        for source, gate in zip(sources, gates, strict=True)
        if gate is not None and gate != gate_in(source.folder)
    ]
    if reason is not None and not past:
        raise SettingsError("--override: the gate holds nothing here; leave it out.")
    for folder, gate in past:
        gate.write(folder)
    return [
        source if gate is None else replace(source, about=replace(source.about, gate=gate))
        for source, gate in zip(sources, gates, strict=True)
    ]


def require_fitting(kind: Kind, *, rank: int | None, dtype: Precision | None) -> None:
    if rank is not None and kind is Kind.merged:
        raise SettingsError("--rank is an adapter's; a merged model has none. Leave it out, or take --kind peft.")
    if dtype is not None and kind is Kind.peft:
        raise SettingsError("--dtype is for merged and gguf; a PEFT adapter is always float32. Leave it out.")
    if dtype is Precision.bfloat16 and kind is Kind.gguf:
        raise SettingsError("--dtype bfloat16 is for merged; a GGUF adapter is float32 or float16.")


def at_rank(source: Source, rank: int | None) -> Uniform:
    """The changes at one rank; what is left out is said."""
    from fedlora.adapters.uniform import uniform

    found = uniform(source.products, rank=rank)
    found = replace(found, left_out=math.hypot(found.left_out, source.left_out))
    if found.left_out:
        typer.echo(
            f"{source.name}: rank {found.rank} leaves out {found.left_out:.2g} of what was learnt (relative, in the "
            "Frobenius norm)."
        )
    return found


def write_peft(source: Source, folder: Path, rank: int | None, dtype: str) -> int:
    from fedlora.exports.folder import write_for_peft

    change = at_rank(source, rank)
    write_for_peft(folder, change, source.dense, source.about)
    return change.rank


def write_model(source: Source, folder: Path, rank: int | None, dtype: str) -> int:
    import torch

    from fedlora.exports.merged import write_merged

    off = write_merged(folder, source, dtype=getattr(torch, dtype))
    if off:
        typer.echo(f"{source.name}: rounded to {dtype}, the weights are off by {off:.2g} of what the run changed.")
    return 0


def write_for_llama_cpp(source: Source, folder: Path, rank: int | None, dtype: str) -> int:
    import torch

    from fedlora.exports.gguf_lora import write_gguf
    from fedlora.exports.serving import write_modelfile

    change = at_rank(source, rank)
    file = write_gguf(folder, source, change, dtype=getattr(torch, dtype))
    write_modelfile(folder, source.about.base, adapter=file.name)
    source.about.write_notice(folder)
    return change.rank
