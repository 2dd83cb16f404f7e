"""Text of four domains, one folder each, for `sweeps/domains.yaml`: `python benchmarks/domains.py FOLDER`.

Domains are files that Debian installs: the sources of Python's documentation (package python3-doc), C headers, licences
and copyright notices, and German manual pages (manpages-de). Those that are missing are left out.
"""

import gzip
import random
import sys
from pathlib import Path

SHARE = Path("/usr/share")
DOMAINS = {
    "python-docs": (SHARE / "doc", "python3*/html/_sources/**/*.txt"),
    "c-headers": (Path("/usr/include"), "**/*.h"),
    "licences": (SHARE / "doc", "*/copyright"),
    "german": (SHARE / "man" / "de", "**/*.gz"),
}
DOMAIN_BYTES, FILE_BYTES, LEAST_BYTES = 3_000_000, 60_000, 1_000_000


def collect(name: str, folder: Path) -> bool:
    """Copy text of a domain into `folder`, in an order drawn once; return whether there is enough of it."""
    root, pattern = DOMAINS[name]
    files = sorted(root.glob(pattern))
    random.Random(0).shuffle(files)
    total = 0
    folder.mkdir(parents=True, exist_ok=True)
    for i, file in enumerate(files):
        if file.is_symlink() or total > DOMAIN_BYTES:
            continue
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = content[:FILE_BYTES].decode(errors="ignore")
        (folder / f"{i:05}.txt").write_text(text)
        total += len(text)
    return total >= LEAST_BYTES


def main(folder: Path) -> None:
    """Collect all domains."""
    for name in DOMAINS:
        enough = collect(name, folder / name)
        print(f"{folder / name}{'' if enough else ': too little text; install its package'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
