"""Train, measure and compare deep Vision Transformers that do not oversmooth.

model = vitaos.create_model("deit_s24", attnscale=True)
model = vitaos.attach(timm.create_model("vit_small_patch16_224"), attnscale=True, featscale=True)
report = vitaos.load_weights(model, "checkpoint.pth")
"""

from vitaos import timm_registry as timm_registry
from vitaos.models import create_model
from vitaos.techniques import attach
from vitaos.weights.load import load_weights

__version__ = "0.1.0"

__all__ = ["__version__", "attach", "create_model", "load_weights"]
