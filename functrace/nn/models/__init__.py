"""Models, made of the layers: `mlp`, `resnet18`, `resnet50`, `transformer_lm`."""

from functrace.nn.models.mlp import mlp
from functrace.nn.models.resnet import resnet18, resnet50
from functrace.nn.models.transformer import generate, transformer_block, transformer_lm

__all__ = ["generate", "mlp", "resnet18", "resnet50", "transformer_block", "transformer_lm"]
