"""The experiments of the NSVQ paper, made again with this code; each folder is a command."""
