"""Launchers a plan is written for, one file each: `export(request) -> Export`; a hyphen in the name is _ in the file."""
