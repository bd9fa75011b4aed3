"""Benchmarks of speed and memory: not how good a table is, but what reading and making it takes, beside a dense one."""
