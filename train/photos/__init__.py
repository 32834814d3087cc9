"""The photo default: its data from public photos, what it starts from, and how it is judged."""
