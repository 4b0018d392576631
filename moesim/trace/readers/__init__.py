"""Readers: one file per format that `moesim trace convert` takes; each defines `read` and `recognises`."""
