"""Fewer tokens: rows of the table that nobody's text needs are left out, and the tokenizer follows."""

from vocabpress.trim.card import TrimReport
from vocabpress.trim.run import trim

__all__ = ["TrimReport", "trim"]
