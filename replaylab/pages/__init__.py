"""What the book's notebooks show: a module for each page, and the style, tables and players that they share."""
