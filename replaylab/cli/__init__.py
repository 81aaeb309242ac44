"""The command line: `python -m replaylab --help`."""
