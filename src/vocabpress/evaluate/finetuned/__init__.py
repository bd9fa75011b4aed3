"""Tasks that fine-tune: GLUE, and its kin of another kind, and SQuAD."""
