"""peftbench: experiments in parameter-efficient fine-tuning, from one command to one record."""

__version__ = "0.1.0"
