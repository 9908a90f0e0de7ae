"""Records into tables, comparisons with published numbers, figures and a page: from what runs left, nothing else."""
