"""Run codecs over a test set, score what they give back, and compare them."""
