"""Draw the paper's figures: ``python scripts/analyze.py checkpoint=runs/NAME`` (or ``checkpoint=[A,B,...]``).

For every block, on `images` real images: high-frequency to direct-current ratio, token similarity, effective rank,
spectral response of the attention maps with and without AttnScale, similarity of the maps between layers, learned
w, s and t, spectrum of the feature map (docs/analysis.md defines them). A foreign file also needs model= and data=;
model=NAME data=... without a checkpoint looks at the untrained model. Written to `out`: a PNG a figure, overview.png,
numbers.csv, summary.json.
"""

from vitaos import cli
from vitaos.assembly import analysis as inspection
from vitaos.assembly import fingerprint as identity
from vitaos.runtime.world import initialize


def main(config: inspection.AnalyzeConfig) -> None:
    """One analysis: checkpoints -> measures -> figures and tables."""
    world = initialize(config.device)
    for path in inspection.analyze(config, world):
        print(path)


if __name__ == "__main__":
    cli.run(main, config_name="analyze", declared=inspection.ANALYZE_SCHEMA, toggles=identity.TOGGLES, about=__doc__)
