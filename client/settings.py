"""client.yaml: how a site is deployed. Paths are relative to the file.

Only `site`, `resources` and what `tell_machine` describes are ever sent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedlora.config import DeviceSettings
from fedlora.data.classes import Classes
from fedlora.data.form import ColumnNames
from fedlora.deployment.environment import load_settings
from fedlora.settings import Settings
from fedlora.tasks.registry import known_task


class SiteData(Settings):
    """This site's examples: local CSV, JSON Lines or Parquet files, or folders of images in a folder a class."""

    train: Path
    """Examples to train on."""

    task: Annotated[str, AfterValidator(known_task)] = "sequence-classification"
    """What these data are for; a task for something else is refused before anything is opened or charged."""

    test: Path | None = None
    """Examples to evaluate what is received; when not given, a tenth of `train` is kept apart for it."""

    text: str = "text"
    """Column with the text."""

    label: str = "label"
    """Column with the class."""

    format: str | None = None
    """What the rows look like, where the task reads several formats: of causal-lm `prompt-completion`, `messages` or
    `text`. Its first when not given."""

    columns: ColumnNames | None = None
    """What the file calls the format's columns, where it is another name: {prompt: question, completion: answer}."""

    labels: Classes | None = Field(None, min_length=2)
    """The classes that these data have. Rows of another one are left out, and a task that lacks one of these is refused
    before anything is opened or charged. Not given: what the file holds, and under privacy a row of a class that a task
    does not have is left out of that task."""

    largest_unusable_share: float = Field(0.2, ge=0, le=1)
    """Rows that cannot be read, have an empty cell or another class are left out; if they are more than this share of
    the file, private tasks are refused before anything is charged."""

    dataset: str = "default"
    """What these data are called in the ledger and the policy: budgets belong to datasets."""


class Limits(Settings):
    """What this site's agent may take of its machine and its line."""

    memory_mib: int | None = Field(None, ge=512)
    """Most memory for the executor (Linux), its imports included; a task that needs more fails with the code
    `out-of-memory`, and the agent lives on. None: as much as there is."""

    megabits_s: float | None = Field(None, gt=0)
    """Most that is sent, and most that is received, in Mbit/s. None: as fast as the line is."""


class Deadlines(Settings):
    """How long a site waits before it takes something for dead. On a busy machine: more."""

    answer_s: float = Field(20.0, gt=0)
    """Seconds for the coordinator's answer, when the agent asks how the site stands with it. Nothing is ended."""

    connection_s: float = Field(40.0, gt=0)
    """Seconds since its last connection after which a SuperNode is started afresh, if the coordinator has answered the
    agent for as long. Its own attempts to reconnect come sooner."""

    start_s: float = Field(240.0, gt=0)
    """The same for a SuperNode that has not been connected yet: on a busy machine its imports alone take a minute."""

    revoked_s: float = Field(600.0, gt=0)
    """Seconds since the coordinator first said, and has said ever since, that it does not accept this site's key; then
    the agent stops, with status 77."""


class ClientSettings(Settings):
    """A deployed site."""

    site: str
    """The name under which the coordinator approved this site."""

    coordinator: str
    """host:port of the coordinator's Fleet API."""

    ca_certificate: Path = Path("ca.crt")
    """The only certificate authority that is trusted for this coordinator."""

    node_key: Path = Path("node.key")
    """This site's private key; mode 0600."""

    certificate: Path = Path("site.crt")
    """What this site shows at the coordinator's port, for its key; it came with the grant."""

    data: SiteData
    """Where the examples are."""

    state: Path = Path("state")
    """Ledger, error-feedback residual, held base version: this site's own memory. Back it up; never copy it back."""

    policy: Path | None = None
    """The site's privacy policy; the strict defaults when not given."""

    device: str | None = None
    """cpu, cuda, cuda:1, ...; the recipe's when not given. Several GPUs: one agent for each."""

    executor: Literal["warm", "stock"] = "warm"
    """`warm` keeps imports, base model and tokenised data loaded between rounds; `stock` is Flower's own: a process per
    message."""

    limits: Limits = Limits()
    """Caps on memory and bandwidth."""

    resources: DeviceSettings | None = None
    """What this site tells the coordinator that it can carry, with its first answer in a run: the planner then gives it
    fewer layers or a lower rank, in runs that plan. Nothing is measured or told unless it is written here."""

    download_models: bool = False
    """Whether a base model that policy.yaml allows may be fetched from the Hugging Face hub when a run asks for it.
    List it by its fingerprint then: whoever owns an id there can change what it is. Otherwise the agent is offline,
    and a person fetches models beforehand (`hf download ID`)."""

    tell_machine: bool = True
    """Whether the coordinator is told, with the first answer in a run, the versions of fedlora, Python, torch and flwr
    and the device that are at work here: what its operator asks first when a site fails."""

    allow_bundles: tuple[str, ...] | Literal["any"] = ()
    """SHA-256 of bundles with code that may run here. Bundles that hold configuration only are always accepted: the
    site runs the client that it installed. `stock` cannot check, and needs `any`."""

    runtime_port: int = Field(0, ge=0, le=65535)
    """Port on 127.0.0.1 between SuperNode and executor; 0: any free one."""

    health_port: int = Field(9190, ge=0, le=65535)
    """Port on 127.0.0.1 of GET /healthz."""

    largest_message_mib: int = Field(512, ge=1)
    """Messages above this are refused before they are decoded."""

    log_to: Literal["files", "output"] = "files"
    """Processes log to logs/ or, for containers, to this process's own output."""

    patience: Deadlines = Deadlines()
    """Time-outs; docs/reliability.md lists all of them."""

    folder: Path = Path()
    """Set on loading: the folder of client.yaml."""

    @property
    def secret(self) -> Path:
        """Shared by SuperNode and executor: without it anybody on this machine could take tasks."""
        return self.folder / "secret"

    def home(self, process: str) -> Path:
        """FLWR_HOME of one process."""
        return self.folder / "flower" / process


def load_client(path: Path) -> ClientSettings:
    """Read client.yaml and make its paths absolute."""
    settings = load_settings(ClientSettings, path)
    folder = path.resolve().parent
    data = settings.data.model_copy(
        update={
            "train": folder / settings.data.train,
            "test": None if settings.data.test is None else folder / settings.data.test,
        }
    )
    return settings.model_copy(
        update={
            "folder": folder,
            "ca_certificate": folder / settings.ca_certificate,
            "node_key": folder / settings.node_key,
            "certificate": folder / settings.certificate,
            "state": folder / settings.state,
            "policy": None if settings.policy is None else folder / settings.policy,
            "data": data,
        }
    )
