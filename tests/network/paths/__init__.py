"""Path policies."""
