"""Collectives: which token copies travel where, as flows over links."""
