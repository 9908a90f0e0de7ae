"""`peftbench fetch`: models and data brought here once, whole or not at all."""
