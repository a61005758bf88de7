"""Give a trained model to others: ``python scripts/export.py checkpoint=runs/NAME out=DIR``.

``format=safetensors`` writes model.safetensors, config.json and a model card (README.md); ``onnx`` and ``torch_export``
write model.onnx or model.pt2 beside the card. A foreign file also needs model= and data=.
"""

from vitaos import cli
from vitaos.assembly import export
from vitaos.assembly.schemas import EXPORT_SCHEMA
from vitaos.config import ExportConfig


def main(config: ExportConfig) -> None:
    """One export: checkpoint -> a folder."""
    for path in export.export(config):
        print(path)


if __name__ == "__main__":
    cli.run(main, config_name="export", schema=EXPORT_SCHEMA, about=__doc__)
