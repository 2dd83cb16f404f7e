"""Folders that tests read."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
PUBLIC = Path(os.environ.get("SCALELAB_PUBLIC_DATA", ROOT.parent / "shared" / "reference"))
