"""The adapters of several clients on one model: what trains keeps its place, and its weight becomes one a client.

Shapes: K clients, n rows of the pass, t positions, i in, o out.

    W_koi  ──every row takes its client's──►  W_noi = W_koi[of_row]        y_nto = bmm(x_nti, W_noiᵀ)

The base's own products see n rows and know nothing of clients, and are done once. Autograd adds a row's gradient to its
client's. Between `begin` and `end` the rows' weights are leaves: then every row has a gradient of its own.

Guarantee: with losses of single rows, summed, a client's gradient is what it has by itself, up to rounding; whoever has
no row in a pass has none. Afterwards the model has the parameters that it had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedlora.updates import Tensors


class UnstackableError(Exception):
    """What trains in this model cannot be there once a client."""


class RowsError(Exception):
    """A layer was given something else than the rows of the pass."""


class Owners:
    """Whose row is whose in the pass under way."""

    def __init__(self) -> None:
        self.of_row_n = torch.zeros(0, dtype=torch.long)
        self._leaves: dict[Tensor, Tensor] | None = None

    def begin(self) -> None:
        """From here on rows have leaves of their own."""
        self._leaves = {}

    def end(self) -> dict[Tensor, Tensor]:
        """Every parameter's gradients by row (n, *shape); one that no row reached is absent."""
        leaves, self._leaves = self._leaves or {}, None
        return {parameter: leaf.grad for parameter, leaf in leaves.items() if leaf.grad is not None}

    def rows_of(self, parameter: Tensor) -> Tensor:
        """(n, *shape): every row's own."""
        if self._leaves is None or not parameter.requires_grad:
            return parameter.index_select(0, self.of_row_n)
        if parameter not in self._leaves:
            self._leaves[parameter] = parameter.detach().index_select(0, self.of_row_n).requires_grad_()
        return self._leaves[parameter]


class StackedLinear(nn.Linear):
    """An `nn.Linear` with a weight (K, o, i), and a bias (K, o) if it has one."""

    owners: Owners
    called: str
    """Its path in the model, for whoever reads an error."""

    def forward(self, input: Tensor) -> Tensor:
        owners = self.owners
        n = len(owners.of_row_n)
        if input.dim() < 2 or input.shape[0] != n:
            raise RowsError(f"{self.called} is given {tuple(input.shape)}, whose first axis is not the {n} rows")
        y_nto = torch.bmm(input.reshape(n, -1, input.shape[-1]), owners.rows_of(self.weight).mT)
        if self.bias is not None:
            y_nto = y_nto + owners.rows_of(self.bias).unsqueeze(1)
        return y_nto.reshape(*input.shape[:-1], self.out_features)


class Stack:
    """K clients' values of some of a model's parameters, in their places."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], owners: Owners, clients: int) -> None:
        self.parameters = parameters
        """(K, *shape), by flat name."""
        self.owners = owners
        self.clients = clients

    def rows(self, of_row: Sequence[int]) -> None:
        """The next pass has these clients' rows."""
        device = next(iter(self.parameters.values())).device
        self.owners.of_row_n = torch.tensor(of_row, dtype=torch.long, device=device)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.parameters.items() if parameter.requires_grad}

    def values(self, client: int) -> dict[str, Tensor]:
        """A copy on the CPU in float32 of what trains of one client."""
        return {n: p.detach()[client].to("cpu", torch.float32, copy=True) for n, p in self.trained.items()}


@contextmanager
def stacked(model: nn.Module, live: Mapping[str, nn.Parameter], values: Sequence[Tensors]) -> Iterator[Stack]:
    """The model with these parameters once for each of `values`, which has theirs by the same flat names.

    UnstackableError, and nothing has changed, where one of them is in no plain linear layer.
    """
    owners, names = Owners(), {id(parameter): name for name, parameter in live.items()}
    modules = {
        path: module
        for path, module in model.named_modules()
        if any(id(parameter) in names for parameter in module.parameters(recurse=False))
    }
    for path, module in modules.items():
        if type(module) is not nn.Linear:
            raise UnstackableError(f"{path} trains and is a {type(module).__name__}, not a plain linear layer")
    before = {module: dict(module.named_parameters(recurse=False)) for module in modules.values()}
    found: dict[str, nn.Parameter] = {}
    try:
        for path, module in modules.items():
            for part, parameter in before[module].items():
                name = names.get(id(parameter))
                many = [parameter.detach() if name is None else own[name].to(parameter) for own in values]
                place = nn.Parameter(torch.stack(many), parameter.requires_grad)
                setattr(module, part, place)
                if name is not None:
                    found[name] = place
            module.__class__ = StackedLinear
            module.__dict__ |= {"owners": owners, "called": path}
        yield Stack({name: found[name] for name in live}, owners, len(values))
    finally:
        for module, parameters in before.items():
            module.__class__ = nn.Linear
            module.__dict__.pop("owners", None)
            module.__dict__.pop("called", None)
            for part, parameter in parameters.items():
                setattr(module, part, parameter)
