"""Conversion of published weights to our variables."""
