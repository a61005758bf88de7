"""Give a trained model to others: ``python scripts/export.py checkpoint=runs/NAME out=DIR``.

``format=safetensors`` writes model.safetensors, config.json and a model card (README.md), ``onnx`` and ``torch_export``
model.onnx or model.pt2 in place of the first. A foreign file also needs model= and data=.
"""

from vitaos import cli
from vitaos.assembly.schemas import EXPORT_SCHEMA
from vitaos.config import ExportConfig

COMMAND = cli.Command("export", EXPORT_SCHEMA, __doc__)
if __name__ == "__main__":
    COMMAND.check()  # --help and mistakes are answered before torch is imported below

from vitaos.assembly import export


def main(config: ExportConfig) -> None:
    """One export: checkpoint -> a folder."""
    for path in export.export(config):
        print(path)


if __name__ == "__main__":
    COMMAND.run(main)
