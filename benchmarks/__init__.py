"""Side-by-side measurements, runnable by anyone: `make benchmark`."""
