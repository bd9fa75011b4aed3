"""What a little training on unlabelled text wins back."""
