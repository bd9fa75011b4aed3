"""Tasks that fine-tune: GLUE with out-of-distribution data, and SQuAD."""
