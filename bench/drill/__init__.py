"""Fault drills: parts of a stack under traffic are killed, paused and misled; afterwards the books must balance."""
