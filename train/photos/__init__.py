"""The photo default: its data, what it starts from, and how it is judged."""
