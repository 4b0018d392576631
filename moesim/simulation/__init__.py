"""The run on a clock: SimPy processes for ranks, a fabric for links, and what they are seen to do."""
