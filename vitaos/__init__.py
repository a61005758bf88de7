"""Train, measure and compare deep Vision Transformers that do not oversmooth.

model = vitaos.create_model("deit_s24", attnscale=True)
model = vitaos.attach(timm.create_model("vit_small_patch16_224"), attnscale=True, featscale=True)
report = vitaos.load_weights(model, "checkpoint.pth")
vitaos.save_pretrained(model, "folder")
model = vitaos.from_pretrained("folder")  # or "hf-hub:OWNER/NAME"
run = vitaos.train(["data=digits", "attnscale=true"])  # the commands as functions; evaluate and analyze alike
"""

from vitaos import timm_registry as timm_registry
from vitaos.functions import analyze, evaluate, train
from vitaos.models import create_model
from vitaos.techniques import attach
from vitaos.version import __version__
from vitaos.weights.load import load_weights
from vitaos.weights.pretrained import from_pretrained, save_pretrained

__all__ = [
    "__version__",
    "analyze",
    "attach",
    "create_model",
    "evaluate",
    "from_pretrained",
    "load_weights",
    "save_pretrained",
    "train",
]
