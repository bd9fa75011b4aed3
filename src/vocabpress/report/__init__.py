"""Results into tables, pictures and pages. Computes nothing but how to show it."""
