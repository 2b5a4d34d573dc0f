"""Configurations.

Each file's get_config() returns a ConfigDict; its docstring holds the commands and the result.
"""
