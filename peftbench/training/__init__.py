"""The training loop and its parts. Names no method and no task."""
