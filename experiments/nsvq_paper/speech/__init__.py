"""A speech codec with a 12-bit VQ, by gradient estimator: Figure 1 of the paper; see speech.md."""
