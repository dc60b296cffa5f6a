"""Lamina's samplers and those of its peers, side by side: speed that counts only where the draws are right."""
