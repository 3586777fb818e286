"""What arrives in the field: odd files, pipes and calls, and what becomes of each."""
