"""What `benchmarks/fuzz.py` feeds to which loader."""
