"""The house: which part may see which, and that what is written beside the code agrees with it."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vitaos import techniques
from vitaos.technique_names import TECHNIQUE_NAMES

ROOT = Path(__file__).resolve().parents[1]
SHARED = {"batch", "counter_rng", "files", "gpus", "metrics_reader", "optional", "runtime", "suggest"}
MAY_SEE = {
    "suggest": set(),
    "commands": {"suggest", "version"},
    "dtypes": set(),
    "technique_names": set(),
    "config": set(),
    "config_check": {"config", "suggest"},
    "batch": set(),
    "counter_rng": set(),
    "files": set(),
    "gpus": set(),
    "metrics_reader": set(),
    "optional": set(),
    "runtime": set(),
    "checkpoint": {"files"},
    "techniques": {"dtypes", "suggest"},
    "data": SHARED,
    "engine": SHARED,
    "outputs": SHARED | {"checkpoint"},
    "analysis": {"dtypes", "files", "metrics_reader"},
    "study": {"analysis", "config", "files", "metrics_reader"},
    "models": {"backbones", "suggest", "techniques"},
    "backbones": set(),
    "deferred_imports": set(),
    "timm_import": {"deferred_imports"},
    "timm_registry": {"backbones", "models", "technique_names"},
    "weights": {"checkpoint", "files", "models", "techniques"},
    "doctor": {"commands", "runtime", "version"},
    "root": set(),
    "user_configs": {"root"},
    "overrides": {"config", "root", "suggest", "user_configs"},
    "command_help": {"config", "overrides"},
    "version": set(),
    "cli": {"command_help", "config", "config_check", "overrides", "root", "runtime", "user_configs", "version"},
    "__main__": {"commands", "root"},
    "functions": {"assembly", "checkpoint", "cli", "metrics_reader", "runtime"},
}


def imports(path: Path) -> Iterator[str]:
    """The parts of vitaos that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("vitaos."))
        elif isinstance(node, ast.ImportFrom) and node.module == "vitaos":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vitaos."):
            yield node.module.split(".")[1]


def files_of(part: str) -> list[Path]:
    folder = ROOT / "vitaos" / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def test_every_part_is_listed() -> None:
    parts = {
        path.stem for path in (ROOT / "vitaos").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert parts - {"__init__", "assembly"} == set(MAY_SEE)


@pytest.mark.parametrize("part", MAY_SEE)
def test_arrows_point_one_way(part: str) -> None:
    for path in files_of(part):
        seen = set(imports(path)) - {part}
        assert seen <= MAY_SEE[part], f"{path.relative_to(ROOT)} sees {sorted(seen - MAY_SEE[part])}"


def modules_imported_by(path: Path) -> set[Path]:
    """The files of vitaos that a file needs in order to be imported (imports within functions come later)."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            module = ROOT / name.replace(".", "/")
            found |= {file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file()}
    return {file for file in found if ROOT / "vitaos" in file.parents}


def test_no_module_imports_itself_by_way_of_others() -> None:
    needs = {path: modules_imported_by(path) - {path} for path in (ROOT / "vitaos").rglob("*.py")}
    needs[ROOT / "vitaos" / "__init__.py"] = set()  # imported with every module; it gathers what is public
    while free := [path for path, needed in needs.items() if not needed & set(needs)]:
        for path in free:
            del needs[path]
    assert not needs, f"a circle among {sorted(str(path.relative_to(ROOT)) for path in needs)}"


def test_technique_names_are_those_of_the_registry() -> None:
    assert list(TECHNIQUE_NAMES) == techniques.names()


def test_nothing_but_the_ffcv_files_needs_ffcv() -> None:
    """FFCV is optional: nothing that runs without it may import it on the way in."""
    importing = []
    for path in sorted((ROOT / "vitaos").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
        if any(name.split(".")[0] == "ffcv" for name in names):
            importing.append(path.parent)
    assert set(importing) <= {ROOT / "vitaos" / "data" / "ffcv"}, importing


def test_docker_and_set_up_ask_for_the_same_system_packages() -> None:
    docker, setup = (ROOT / name for name in ("Dockerfile", "scripts/setup.sh"))
    for package in ("libopencv-dev", "libturbojpeg0-dev", "pkg-config"):
        assert package in docker.read_text()
        assert package in setup.read_text()


def test_docker_copies_what_exists_and_ends_as_an_ordinary_user() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?:--\S+ )*(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
    known = {name for _, name in stages}
    for base, _ in stages[1:]:
        assert base in known or base == "apex-${APEX}", base
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1] not in {"root", "0"}


def test_docker_has_the_cuda_that_the_pinned_torch_is_built_for() -> None:
    """apex compiles against the image's CUDA and refuses one of another minor version than torch's."""
    pins = dict(re.findall(r"^(torch)==([0-9.]+); python_version >=", (ROOT / "constraints.txt").read_text(), re.M))
    found = re.search(r"^ARG CUDA=(\d+\.\d+)\.\d+$", (ROOT / "Dockerfile").read_text(), re.M)
    assert found is not None
    if torch.__version__.split("+")[0] != pins["torch"] or torch.version.cuda is None:
        pytest.skip(f"the torch here ({torch.__version__}) is not the CUDA build of the pinned {pins['torch']}")
    assert found[1] == torch.version.cuda


@pytest.mark.parametrize(
    "script", [*sorted((ROOT / "scripts").rglob("*.sh")), ROOT / ".ci" / "run"], ids=lambda p: p.name
)
def test_shell_scripts_parse_and_stop_at_errors(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert "set -euo pipefail" in script.read_text()


def test_constraints_are_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"#.*|[a-z0-9-]+==[0-9a-z.]+(; python_version (<|>=) \"3\.11\")?", line), line


def test_links_between_the_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
