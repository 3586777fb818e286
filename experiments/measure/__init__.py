"""Measurements of the shipped codec; each is a command of its own."""
