"""Speed and memory, against bare PyTorch in the same run."""
