"""Tensors and modules that methods are made of. Imports torch and nothing of peftbench."""
