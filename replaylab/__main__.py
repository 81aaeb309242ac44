"""`python -m replaylab`: see `replaylab.cli`."""

import sys

from replaylab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
