"""Latency tables for neural networks on a CPU: measure, prove, predict."""
