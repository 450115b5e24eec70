"""Options that several commands have: of the recipe, of this machine, of what is printed."""

from __future__ import annotations

from typing import Annotated

import typer

from fedlora.config.compute import ComputeSettings
from fedlora.settings import parse

Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value; may be repeated. `fedlora config show` lists the keys.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no table of rounds.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also print fedlora's log, to stderr.")]

Device = Annotated[str | None, typer.Option(help="Where this machine computes: cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str | None, typer.Option(help="float32 or bfloat16, whatever the recipe wishes.")]
Microbatch = Annotated[int | None, typer.Option(min=1, help="Most examples in memory at once; the sums stay the same.")]
ClientsPerGpu = Annotated[int, typer.Option(min=1, help="With --engine ray: clients that share one GPU.")]
TogetherOption = Annotated[
    bool, typer.Option("--together", help="Train several clients in one pass where that pays; each learns the same.")
]


def compute_of(
    device: str | None,
    dtype: str | None,
    microbatch: int | None,
    clients_per_gpu: int = 1,
    *,
    together: bool = False,
) -> ComputeSettings:
    """How this machine computes; SettingsError for a dtype that there is not."""
    given = {"device": device, "dtype": dtype, "microbatch": microbatch, "clients_per_gpu": clients_per_gpu}
    return parse(ComputeSettings, {**given, "together": together})
