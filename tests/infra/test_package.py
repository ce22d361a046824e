"""What is deployed: it installs on Linux from wheels alone, imports with nothing else, and is small."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.infra.templates import PROJECT, left_out

MEGABYTE = 1_000_000
OURS_AT_MOST = 60 * MEGABYTE
#: What the figure leaves out: the SDKs that the app cannot do without.
SDKS = ("azure", "openai", "azurefunctions")

pytestmark = pytest.mark.xdist_group("package")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package and, beside it in `site`, what requirements.txt installs for Linux."""
    root = tmp_path_factory.mktemp("deployed")
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    for name in tracked.splitlines():
        if not left_out(Path(name)) and (PROJECT / name).is_file():
            (root / "app" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, root / "app" / name)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    wheels = ["--only-binary", ":all:", "--python-version", "3.13", "--implementation", "cp"]
    platforms = ["--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"]
    subprocess.run(
        [*install, *wheels, *platforms, "--target", root / "site", "-r", PROJECT / "requirements.txt"], check=True
    )
    return root


def test_the_package_holds_the_app_and_nothing_else(deployed: Path) -> None:
    top = {path.name for path in (deployed / "app").iterdir()}
    assert top == {"batch_fn", "function_app.py", "host.json", "requirements.txt"}


def test_the_app_imports_with_only_its_requirements(deployed: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("the wheels are those for Linux")
    venv.create(deployed / "empty", with_pip=False)
    code = (
        "import importlib, pkgutil, function_app, batch_fn\n"
        "for each in pkgutil.walk_packages(batch_fn.__path__, 'batch_fn.'):\n"
        "    each.name.endswith('__main__') or importlib.import_module(each.name)\n"
        "import openai, azure.identity, azure.data.tables, azure.storage.queue\n"
        "print(len(function_app.app.get_functions()))\n"
    )
    storage = "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=eA==;EndpointSuffix=core.windows.net"
    settings = {"BatchStorage": storage, "AZURE_OPENAI_ENDPOINT": "https://x.openai.azure.com"}
    run = subprocess.run(
        [deployed / "empty/bin/python", "-c", code],
        cwd=deployed / "app",
        env={"PYTHONPATH": str(deployed / "site"), "PYTHONDONTWRITEBYTECODE": "1", **settings},
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 9


def test_what_is_installed_is_small(deployed: Path) -> None:
    sizes = {
        top.name: sum(file.stat().st_size for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file())
        for top in [*(deployed / "site").iterdir(), deployed / "app"]
    }
    ours = {name: size for name, size in sizes.items() if not name.startswith(SDKS)}
    largest = ", ".join(f"{name} {size / MEGABYTE:.1f}" for name, size in sorted(ours.items(), key=lambda e: -e[1])[:5])
    assert sum(ours.values()) < OURS_AT_MOST, f"{sum(ours.values()) / MEGABYTE:.0f} MB: {largest}"
