"""How fast it is: ratios of two things measured in turn in one process, never seconds alone."""
