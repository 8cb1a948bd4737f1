"""Grids of runs: what a table or a figure of the paper asks for, one run after the other."""
