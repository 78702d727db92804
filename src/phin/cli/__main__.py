"""`python -m phin.cli`, which is `phin`."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
