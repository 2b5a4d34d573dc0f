"""Configurations: each file's get_config() returns a ConfigDict; its docstring holds the command and the result."""
