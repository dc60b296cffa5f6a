"""Normalising constants, by way of a path of densities from one that is known to the one wanted."""
