"""`python -m devkit.provision`: make the containers, queues and tables that local.settings.json names."""

import json
from pathlib import Path

from batch_fn.settings import Settings
from devkit.stack import PROJECT, provision

SETTINGS_FILE = "local.settings.json"


def main(file: Path) -> None:
    """Make what the file's settings name, where it is not there yet."""
    settings = Settings.read(json.loads(file.read_text())["Values"])
    provision(settings.storage or "", settings)
    print("There are:", ", ".join((*settings.containers, *settings.queues, *settings.tables)))


if __name__ == "__main__":
    main(PROJECT / SETTINGS_FILE)
