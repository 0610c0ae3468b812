"""Where a network looks and what moves it: activation maps, perturbations, loss surfaces."""
