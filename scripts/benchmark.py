"""The same as `python -m benchmarks`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout, in place of the folder of scripts
    from benchmarks.__main__ import main

    sys.exit(main())
