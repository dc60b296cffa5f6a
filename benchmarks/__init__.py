"""Benchmarks of Lamina: toy densities with exact truth, and samplers measured against them."""
