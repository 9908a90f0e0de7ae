"""Backbones: loading pretrained language models and reading their anatomy."""
