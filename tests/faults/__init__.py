"""The parts of the fault harness: each makes a number of faults, checks what follows, and returns its figures."""
