"""The commands of `latencykit`, one family a file."""
