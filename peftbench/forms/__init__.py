"""Forms: how the rows of a task meet a model, as tokens, as a loss, as predictions."""
