"""What a thousand workers would ask of the stream and the memory: costs, demand, shards."""
