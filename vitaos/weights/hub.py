"""Where published weights lie: a folder, or a repository of the Hugging Face hub (``hf-hub:OWNER/NAME[@REVISION]``)."""

from pathlib import Path
from typing import Final

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

HUB_PREFIX: Final = "hf-hub:"
CONFIG_NAME: Final = "config.json"
WEIGHTS_NAME: Final = "model.safetensors"


def locate(source: str | Path, filename: str) -> Path:
    """The local path of one file of a published model, downloaded into the hub's cache where it has to be.

    Args:
        source: a folder, or ``hf-hub:OWNER/NAME``, with ``@REVISION`` for a branch, tag or commit.
        filename: the file within it.

    Raises:
        ValueError: no such folder, repository or file, or no connection and no copy in the cache.
    """
    if not str(source).startswith(HUB_PREFIX):
        path = Path(source) / filename
        if not path.is_file():
            raise ValueError(
                f"{source} holds no {filename}: expected a folder that `export` wrote, or hf-hub:OWNER/NAME."
            )
        return path
    repository, _, revision = str(source).removeprefix(HUB_PREFIX).partition("@")
    try:
        return Path(hf_hub_download(repository, filename, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{source}: {filename} cannot be had from the hub: {first}") from error
