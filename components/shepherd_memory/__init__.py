"""Memory: block events become an index, evicted turns an archive, and sessions are told."""
