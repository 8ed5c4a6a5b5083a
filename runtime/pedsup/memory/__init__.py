"""Memory before load: what a model will need, from its GGUF header alone, and whether it fits."""

from pedsup.device.available import Available, available_memory
from pedsup.gguf_file.shape import ModelShape, model_shape
from pedsup.memory.estimate import Host, MemoryEstimate, estimate
from pedsup.memory.fit import Fit, Room
from pedsup.memory.paging import Paging

__all__ = [
    "Available",
    "Fit",
    "Host",
    "MemoryEstimate",
    "ModelShape",
    "Paging",
    "Room",
    "available_memory",
    "estimate",
    "model_shape",
]
