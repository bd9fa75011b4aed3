"""Many measurements from one plan."""
