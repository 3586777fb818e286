"""Experiments with the codec: what the documents take their figures from. Not installed."""
