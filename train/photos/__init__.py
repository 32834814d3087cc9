"""Public photos as training data, and how well a model answers about photos."""
