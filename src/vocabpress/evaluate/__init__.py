"""What a compressed table costs, measured."""
