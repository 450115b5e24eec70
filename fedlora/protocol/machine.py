"""A site's description of its machine: versions and device. Nothing about its data, its files or its name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedlora.settings import Settings

Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+!_-]{0,39}$")]


class Machine(Settings):
    """Short and of plain characters, whatever a site sends: it is stored, shown to people and a label of metrics."""

    fedlora: Version
    python: Version
    torch: Version
    flwr: Version

    device: str = Field(pattern=r"^[a-z]{1,16}(:[0-9]{1,3})?$")
    """Where it trains: cpu, cuda:0, ..."""

    accelerator: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ()._/+-]{0,59}$")
    """The device's product name; None for a CPU."""

    @property
    def place(self) -> str:
        """The device in words.

        >>> versions = {"fedlora": "1", "python": "3", "torch": "2", "flwr": "1"}
        >>> Machine(**versions, device="cuda:0", accelerator="NVIDIA H100 PCIe").place
        'cuda:0, NVIDIA H100 PCIe'
        """
        return self.device if self.accelerator is None else f"{self.device}, {self.accelerator}"

    @property
    def versions(self) -> str:
        return f"Python {self.python}, torch {self.torch}, flwr {self.flwr}"

    @property
    def words(self) -> str:
        """All of it, in a line."""
        return f"fedlora {self.fedlora} on {self.place} ({self.versions})"
