"""One command per figure that the README quotes, the peer measured in the same run."""
