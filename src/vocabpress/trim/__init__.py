"""Remove the tokens that a user's texts do not need from the table and from the tokenizer."""

from vocabpress.trim.card import TrimReport
from vocabpress.trim.run import trim

__all__ = ["TrimReport", "trim"]
