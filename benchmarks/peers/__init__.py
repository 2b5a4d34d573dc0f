"""Peers of every suite, written from the definitions of the originals.

`prepare` makes the program of a case.
"""
