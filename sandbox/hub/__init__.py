"""A hub on this machine: the Hugging Face Hub's HTTP API over real bare Git repositories with LFS storage."""
