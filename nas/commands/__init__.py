"""The commands of `nas`, one family a file. Torch is imported by those that need it, when they run."""
