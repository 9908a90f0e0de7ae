"""What several methods share: where things go, how results are kept and written. No method stands here."""
