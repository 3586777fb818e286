"""Training: data, losses, the loop, the context models, export. Begin with ``trainer.train``."""
