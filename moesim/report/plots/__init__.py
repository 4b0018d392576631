"""Pictures, one file each: `draw(...)` returns a matplotlib Figure and leaves no state behind."""
