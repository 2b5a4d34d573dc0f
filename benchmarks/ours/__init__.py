"""Our side of every suite; `prepare` makes the program of a case."""
