"""A recipe: one YAML file that describes a run. Parsed once, at the door, into frozen models; a section a file.

A default lives in exactly one place, the field; the text under a field is its manual (`fedlora config show`).
"""

from fedlora.config.adapter import AdapterSettings, FirstStepSettings, PublicDataSettings
from fedlora.config.clients.devices import DeviceSettings
from fedlora.config.compute import ComputeSettings
from fedlora.config.data import DataSettings
from fedlora.config.gate import GateSettings
from fedlora.config.model import ModelSettings
from fedlora.config.reading import load, override
from fedlora.config.recipe import Recipe, StrategySettings
from fedlora.config.rounds import RoundSettings
from fedlora.config.train import TrainSettings

__all__ = [
    "AdapterSettings",
    "ComputeSettings",
    "DataSettings",
    "DeviceSettings",
    "FirstStepSettings",
    "GateSettings",
    "ModelSettings",
    "PublicDataSettings",
    "Recipe",
    "RoundSettings",
    "StrategySettings",
    "TrainSettings",
    "load",
    "override",
]
