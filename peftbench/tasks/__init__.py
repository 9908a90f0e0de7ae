"""Tasks: data, splits, metrics. A task knows no model and no method."""
