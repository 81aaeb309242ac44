"""Files, processes, ranks, progress and text: what has nothing to do with videos."""
