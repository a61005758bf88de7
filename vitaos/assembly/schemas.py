"""The configuration classes of the commands: those of ``vitaos.config`` with one key for each technique."""

from typing import Final

from vitaos.config import AnalyzeConfig, EvalConfig, ExportConfig, TrainConfig, schema
from vitaos.technique_names import TECHNIQUE_HELP

TRAIN_SCHEMA: Final = schema(TrainConfig, TECHNIQUE_HELP, known_as=(__name__, "TRAIN_SCHEMA"))
EVAL_SCHEMA: Final = schema(EvalConfig, TECHNIQUE_HELP, known_as=(__name__, "EVAL_SCHEMA"))
ANALYZE_SCHEMA: Final = schema(AnalyzeConfig, TECHNIQUE_HELP, known_as=(__name__, "ANALYZE_SCHEMA"))
EXPORT_SCHEMA: Final = schema(ExportConfig, TECHNIQUE_HELP, known_as=(__name__, "EXPORT_SCHEMA"))
