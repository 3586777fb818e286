"""What stands behind the commands of `cli.py`: their options, their words, their order of work."""
