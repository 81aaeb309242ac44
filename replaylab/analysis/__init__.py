"""What is concluded from the rows of runs: intervals, changes, claims, configurations. Neither torch nor figures."""
