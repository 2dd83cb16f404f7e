"""Build hook of the sdist: files that git does not track are left out."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SPECIAL = re.compile(r"([\\*?\[\]!# ])")  # in a pattern of .gitignore, which `exclude` takes


class TrackedFilesOnly(BuildHookInterface):
    """Exclude untracked files, such as a person's own results; Hatchling itself excludes only ignored ones."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add every untracked file and folder to the `exclude` option of the target.

        Raises:
            RuntimeError: git cannot list the files of this checkout.
        """
        if not Path(self.root, ".git").exists():  # an unpacked sdist, which holds tracked files only
            return
        command = ["git", "ls-files", "--others", "--directory", "-z"]
        listed = subprocess.run(command, cwd=self.root, capture_output=True, text=True)
        if listed.returncode:
            raise RuntimeError(f"git cannot list untracked files, which must not be packed: {listed.stderr.strip()}")
        untracked = ["/" + _SPECIAL.sub(r"\\\1", name) for name in listed.stdout.split("\0") if name]
        self.build_config.target_config.setdefault("exclude", []).extend(untracked)
