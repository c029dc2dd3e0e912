"""Many runs: jobs, locks, launchers, processes and halving; tables and scaling studies on top."""
