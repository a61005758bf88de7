"""Draw the paper's figures: ``python scripts/analyze.py checkpoint=runs/NAME`` (or ``checkpoint=[A,B,...]``).

For every block, on `images` real images: high-frequency to direct-current ratio, token similarity, effective rank,
spectral response of the attention maps with and without AttnScale, similarity of the maps between layers, learned
w, s and t, spectrum of the feature map (docs/analysis.md defines them). A foreign file also needs model= and data=;
model=NAME data=... without a checkpoint looks at the untrained model. Written to `out`: a PNG a figure, overview.png,
numbers.csv, summary.json.
"""

from vitaos import cli
from vitaos.assembly.schemas import ANALYZE_SCHEMA
from vitaos.config import AnalyzeConfig

COMMAND = cli.Command("analyze", ANALYZE_SCHEMA, __doc__, leaves=True)
if __name__ == "__main__":
    COMMAND.check()  # --help and mistakes are answered before torch is imported below

from vitaos.assembly import analysis
from vitaos.runtime.world import initialize


def main(config: AnalyzeConfig) -> None:
    """One analysis: checkpoints -> measures -> figures and tables."""
    world = initialize(config.device)
    for path in analysis.analyze(config, world):
        print(path)


if __name__ == "__main__":
    COMMAND.run(main)
