"""The only door to foreign models: encoders, language models, segmenters, checkpoints, pictures."""
