"""The command line."""

from vocabpress.cli.app import main

__all__ = ["main"]
