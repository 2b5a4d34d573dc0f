"""Scores: the evaluator of a run, its report, and score files of any program."""
