"""Explanations of scores: causes of lost quality, object sizes, calibration, single images."""
