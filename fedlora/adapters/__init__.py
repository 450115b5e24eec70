"""Low-rank adapters in a live model: put in through PEFT, initialised by the coordinator, read and written."""

from fedlora.adapters.initial import initial_adapter
from fedlora.adapters.inject import inject
from fedlora.adapters.live import read, set_trainable, write
from fedlora.adapters.merge import fold, unfold
from fedlora.adapters.shape import scale_of, shaped

__all__ = ["fold", "initial_adapter", "inject", "read", "scale_of", "set_trainable", "shaped", "unfold", "write"]
