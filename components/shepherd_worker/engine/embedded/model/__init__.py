"""The model on its device: weights, attention over the paged cache, one forward pass."""
