"""client.yaml: how a site is deployed. Paths are relative to the file.

Only `site`, `resources` and what `tell_machine` describes are ever sent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedlora.config import ComputeSettings, DeviceSettings
from fedlora.config.model import LoadDtype
from fedlora.data.classes import Classes
from fedlora.data.form import ColumnNames
from fedlora.deployment.environment import load_settings
from fedlora.settings import FormerName, Settings
from fedlora.tasks.registry import known_task


class SiteData(Settings):
    """This site's examples: local CSV, JSON Lines or Parquet files, or folders of images in a folder a class."""

    train: Path
    """Examples to train on."""

    task: Annotated[str, AfterValidator(known_task)] = "sequence-classification"
    """What these data are for; a task for something else is refused before anything is opened or charged."""

    test: Path | None = None
    """Examples on which the received adapter is evaluated; if not given, a tenth of `train` is set aside for it."""

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

    labels: Classes | None = Field(None, min_length=2)
    """The classes in these data. Rows of other classes are left out, and a task that lacks one of these is refused
    before anything is opened or charged. If not given, the classes found in the file are used, and with privacy, rows
    of a class that a task does not have are left out of that task."""

    max_unusable_share: Annotated[float, FormerName("largest_unusable_share")] = Field(0.2, ge=0, le=1)
    """Largest share of unusable rows. Rows that cannot be read, have an empty cell or another class are left out; if
    their share is above this, private tasks are refused before anything is charged."""

    dataset: str = "default"
    """Name of these data in the ledger and the policy: budgets belong to datasets."""


class Limits(Settings):
    """Limits on the memory and bandwidth of this site's agent."""

    memory_mib: int | None = Field(None, ge=512)
    """Memory limit of the executor (Linux), including its imports; a task that needs more fails with the code
    `out-of-memory`, and the agent keeps running. None: no limit."""

    megabits_s: float | None = Field(None, gt=0)
    """Limit on sending, and on receiving, in Mbit/s each. None: no limit."""


class Deadlines(Settings):
    """Time-outs of a site. Use larger values on a busy machine."""

    answer_s: float = Field(20.0, gt=0)
    """Seconds to wait for the coordinator's answer when the agent asks for the site's status. Nothing is stopped."""

    connection_s: float = Field(40.0, gt=0)
    """Seconds without a connection after which a SuperNode is restarted, if the coordinator has answered the agent for
    the same time. The SuperNode itself tries to reconnect earlier."""

    start_s: float = Field(240.0, gt=0)
    """The same for a SuperNode that has not connected yet: on a busy machine its imports alone take a minute."""

    revoked_s: float = Field(600.0, gt=0)
    """Seconds during which the coordinator must constantly reject this site's key before the agent stops, with exit
    status 77."""


class ClientSettings(Settings):
    """A deployed site."""

    site: str
    """The name under which the coordinator approved this site."""

    coordinator: str
    """host:port of the coordinator's Fleet API."""

    ca_certificate: Path = Path("ca.crt")
    """The only certificate authority trusted for this coordinator."""

    node_key: Path = Path("node.key")
    """This site's private key; mode 0600."""

    certificate: Path = Path("site.crt")
    """The site's certificate for its key, presented to the coordinator; it comes with the grant."""

    data: SiteData
    """Where the examples are."""

    state: Path = Path("state")
    """Folder for ledger, error-feedback residual and base version: what this site must remember. Back it up; never
    restore an old copy."""

    policy: Path | None = None
    """The site's privacy policy; strict defaults if not given."""

    device: str | None = None
    """cpu, cuda, cuda:1, ...; cpu if not given. Several GPUs: one agent for each."""

    dtype: Literal["float32", "bfloat16"] | None = None
    """Forward and backward passes in this precision, whatever a recipe wishes (`model.dtype`)."""

    load_dtype: LoadDtype | None = None
    """Hold base models in this form, in runs that allow it beside their own (`model.also_held_as`); others are refused.
    As every run says when not given."""

    microbatch: int | None = Field(None, ge=1)
    """Most examples in memory at once, in training and in evaluation: less memory, the same sums. A batch when not
    given."""

    executor: Literal["warm", "stock"] = "warm"
    """`warm` keeps imports, base model and tokenised data loaded between rounds; `stock` is Flower's own: a process per
    message."""

    limits: Limits = Limits()
    """Limits on memory and bandwidth."""

    resources: DeviceSettings | None = None
    """Resources that this site declares to the coordinator, with its first answer in a run: in runs that plan by
    resources, the site then gets fewer layers or a lower rank. Nothing is measured or sent unless it is written
    here."""

    download_models: bool = False
    """Whether a base model that policy.yaml allows may be downloaded from the Hugging Face hub when a run needs it.
    List such a model by its fingerprint: the owner of an id on the hub can change the model. Otherwise the agent is
    offline, and an administrator downloads models in advance (`hf download ID`)."""

    tell_machine: bool = True
    """Whether to send the coordinator, with the first answer in a run, the versions of fedlora, Python, torch and flwr
    and the device used here. Its operator needs them first when a site fails."""

    allow_bundles: tuple[str, ...] | Literal["any"] = ()
    """SHA-256 hashes of bundles with code that may run here. Bundles that contain only configuration are always
    accepted: the site runs the client that it installed. `stock` cannot check bundles, and needs `any`."""

    runtime_port: int = Field(0, ge=0, le=65535)
    """Port on 127.0.0.1 between SuperNode and executor; 0: any free one."""

    health_port: int = Field(9190, ge=0, le=65535)
    """Port on 127.0.0.1 of GET /healthz."""

    max_message_mib: Annotated[int, FormerName("largest_message_mib")] = Field(512, ge=1)
    """Largest message; larger ones are refused before they are decoded."""

    log_to: Literal["files", "output"] = "files"
    """Where processes write their logs: to logs/, or (for containers) to the agent's own output."""

    patience: Deadlines = Deadlines()
    """Time-outs; docs/reliability.md lists all of them."""

    folder: Path = Path()
    """Set on loading: the folder of client.yaml."""

    @property
    def compute(self) -> ComputeSettings:
        return ComputeSettings(
            device=self.device, dtype=self.dtype, load_dtype=self.load_dtype, microbatch=self.microbatch
        )

    @property
    def told_resources(self) -> DeviceSettings | None:
        """`resources`, with the pieces that memory is needed for."""
        if self.resources is None or self.microbatch is None:
            return self.resources
        return self.resources.model_copy(update={"microbatch": self.resources.microbatch or self.microbatch})

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
