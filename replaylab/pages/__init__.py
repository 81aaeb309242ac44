"""The contents of the book's notebooks: a module for each page, and the style, tables and players that they share."""

from replaylab.util.extras import check_there

check_there("book", "matplotlib", "seaborn", "IPython")
