"""server.yaml: how a coordinator is deployed. Paths are relative to the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedlora.config import ComputeSettings
from fedlora.data.classes import Classes
from fedlora.data.form import ColumnNames
from fedlora.deployment.environment import load_settings
from fedlora.plugins.gate import Packages
from fedlora.settings import Settings
from fedlora.tasks.registry import known_task
from server.webhooks import Webhook, located


class HeldOut(Settings):
    """The coordinator's own test set, on which every round's adapter is evaluated."""

    file: Path
    """A local CSV, JSON Lines or Parquet file."""

    task: Annotated[str, AfterValidator(known_task)] = "sequence-classification"
    """What it is for; a recipe for something else cannot run here."""

    text: str = "text"
    """Column with the text."""

    label: str = "label"
    """Column with the class."""

    format: str | None = None
    """What the rows look like, where the task reads several formats: of causal-lm `prompt-completion`, `messages` or
    `text`; of preference, unpaired-preference and multiple-choice texts (`preference`, `unpaired-preference`,
    `choices`) or, with `-messages` behind it, messages; of token-classification `tokens-tags` or
    `text-spans`. The task's first when not given."""

    columns: ColumnNames | None = None
    """What the file calls the format's columns, where it is another name: {prompt: question, completion: answer}."""

    tag_names: Classes | None = None
    """Of words: what the numbers in the file's tags mean, from 0 on, where it has no names ([O, B-PLACE, I-PLACE])."""


class Deadlines(Settings):
    """Time-outs of a coordinator. Use larger values on a busy machine."""

    silent_s: float = Field(90.0, gt=0)
    """Seconds after the submission of a run before Flower is asked about a ServerApp that has not reported yet."""

    running_s: float = Field(3600.0, gt=0)
    """Seconds after the submission before a ServerApp that Flower calls running, and that still has not reported, is
    stopped and started again: it may be importing or hanging, which cannot be distinguished. It is checked twice
    before."""

    start_s: float = Field(300.0, ge=30.0)
    """Seconds that a ServerApp has to report to Flower after the executor takes up its run; then Flower starts another.
    Flower's own limit is 30 s, less than its imports take on a tenth of a core. Flower calls a ServerApp that has
    reported failed after twice this silence; its process id shows it much sooner."""

    control_s: float = Field(120.0, gt=0)
    """Seconds to wait for Flower's answer to one call; nothing is stopped, and the call is repeated later."""


class ServerSettings(Settings):
    """A deployed coordinator."""

    name: str
    """This coordinator's name, as the sites' policies know it."""

    address: str
    """host:port at which sites reach the Fleet API; written into every grant."""

    listen: str = "0.0.0.0:9092"
    """Where the Fleet API (gRPC with TLS) listens: the only port that sites need."""

    site_certificates: Literal["required", "optional"] = "required"
    """Whether a connection to the Fleet API must present the certificate that came with a site's grant. Set `optional`
    while sites of version 0.1.0, whose grants had no certificate, install new grants: then only the site's key is
    checked."""

    control_port: int = Field(9091, ge=1, le=65535)
    """Port on 127.0.0.1 of Flower's Control and Runtime APIs, which run code: never published."""

    health_port: int = Field(9090, ge=0, le=65535)
    """Port on 127.0.0.1 of GET /healthz."""

    metrics_listen: str | None = None
    """host:port of GET /metrics for Prometheus, without TLS or a password: use an address that only the operator's
    machines can reach, such as 127.0.0.1:9094. None: no metrics."""

    store: str | None = None
    """URL of the database with runs, rounds and sites, for the dashboard: postgresql://... or sqlite:///file. None:
    store.db beside this file."""

    webhooks: tuple[Webhook, ...] = ()
    """Webhooks that are called when a budget is nearly spent, a site is missing or a run has finished."""

    plugins: Packages = Field(default_factory=dict)
    """Packages whose strategies, tasks and sources a recipe may name, each with the hash of its files as `fedlora
    plugins` prints it; none if not given. Whoever may submit a run then runs that package's code here."""

    labels: Classes = ()
    """Class names in the order of the head's outputs; taken from `held_out` if not given."""

    held_out: HeldOut | None = None
    """The shared test set; without it rounds are not evaluated."""

    device: str | None = None
    """Where rounds are evaluated, and Fed-SB's first step is taken: cpu, cuda, cuda:1, ...; cpu when not given."""

    dtype: Literal["float32", "bfloat16"] | None = None
    """The same in this precision, whatever a recipe wishes (`model.dtype`)."""

    microbatch: int | None = Field(None, ge=1)
    """Most examples in memory at once; 64 when not given."""

    log_to: Literal["files", "output"] = "files"
    """Where processes write their logs: to logs/, or (for containers) to the coordinator's own output."""

    patience: Deadlines = Deadlines()
    """Time-outs; docs/reliability.md lists all of them."""

    folder: Path = Path()
    """Set on loading: the folder of server.yaml."""

    @property
    def compute(self) -> ComputeSettings:
        return ComputeSettings(device=self.device, dtype=self.dtype, microbatch=self.microbatch)

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def secret(self) -> Path:
        """Shared by SuperLink and executor: without it anybody on this machine could take tasks."""
        return self.folder / "secret"

    @property
    def database(self) -> Path:
        """The SuperLink's own: what it knows can be lost, see docs/reliability.md."""
        return self.folder / "superlink.db"

    @property
    def store_url(self) -> str:
        return self.store or str(self.folder / "store.db")

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def control(self) -> str:
        return f"127.0.0.1:{self.control_port}"

    def home(self, process: str) -> Path:
        """FLWR_HOME of one process."""
        return self.folder / "flower" / process


def load_server(path: Path) -> ServerSettings:
    """Read server.yaml."""
    settings = load_settings(ServerSettings, path)
    folder = path.resolve().parent
    held_out = settings.held_out
    if held_out is not None:
        held_out = held_out.model_copy(update={"file": folder / held_out.file})
    webhooks = located(settings.webhooks, folder)
    return settings.model_copy(update={"folder": folder, "held_out": held_out, "webhooks": webhooks})
