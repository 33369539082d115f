"""The release stage: assemble what is published, then publish exactly that."""
