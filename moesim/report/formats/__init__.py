"""Report formats, one file each: `render(subject) -> {file name: bytes}`, pure and the same bytes every time."""
