"""Many runs from one command: their points, their states, tuning with equal trials."""
