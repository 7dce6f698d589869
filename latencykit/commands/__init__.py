"""The commands of `latencykit`, a module for each family; `latencykit.cli` puts them together."""
