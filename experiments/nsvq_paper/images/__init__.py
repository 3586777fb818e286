"""Image compression with a VQ-VAE: Figures 2 and 3 of the NSVQ paper; see images.md."""
