"""The command line: see `python -m replaylab --help`."""
