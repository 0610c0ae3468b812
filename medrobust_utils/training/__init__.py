"""Training: one resumable loop, its recipes, objectives and texture loss."""
