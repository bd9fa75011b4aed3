"""Into and out of transformers."""
