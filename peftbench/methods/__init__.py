"""Parameter-efficient fine-tuning methods, one file each. A method knows no task and no loop."""
