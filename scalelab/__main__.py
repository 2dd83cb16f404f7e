"""Entry point for `python -m scalelab`."""

import sys

from scalelab.cli import main

if __name__ == "__main__":
    sys.exit(main())
