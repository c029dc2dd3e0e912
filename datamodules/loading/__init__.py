"""From a split to batches: samplers, loaders, worker processes, and the cache of decoded images."""
