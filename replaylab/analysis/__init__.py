"""Analysis of the rows of runs: intervals, changes, claims, configurations. Without torch and figures."""
