"""One codebook on 2-D toy distributions, trained by each method; see toy.md."""
