"""Trained systems as files for other programs, each compared with the predictor first."""
