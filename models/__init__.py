"""Everything of the codec that is trained: quantizers, networks, losses, data and the trainer."""
