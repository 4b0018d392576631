"""Topology files, shapes, description and drawing."""
