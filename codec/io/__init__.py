"""Audio and output files: reading, channels, resampling, writing. No frames and no packets."""
