"""Signal processing on plain arrays: no state of the codec, no files, one order of all sums."""
