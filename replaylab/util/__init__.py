"""Files, processes, ranks, progress and text: utilities that are independent of videos."""
