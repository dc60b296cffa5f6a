"""How warm-up tunes a kernel: one rule to a file, behind the protocol in `base`."""
