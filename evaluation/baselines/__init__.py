"""Other codecs, run as programs on the same clips."""
