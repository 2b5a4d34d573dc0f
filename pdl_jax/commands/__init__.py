"""The command-line programs: flags in, one call out."""
