"""What a network costs: parameters, multiply-adds, memory, latency, and the largest within limits."""
