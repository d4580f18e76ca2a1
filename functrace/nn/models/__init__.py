"""Models, made of the layers: `mlp`, `resnet18`, `resnet50`."""

from functrace.nn.models.mlp import mlp
from functrace.nn.models.resnet import resnet18, resnet50

__all__ = ["mlp", "resnet18", "resnet50"]
