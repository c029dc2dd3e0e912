"""Many runs with one engine: jobs, locks, launchers, processes and halving, with tables and scaling on top of it.

The modules of this folder know nothing of `table` and `scaling`, which know nothing of each other.
"""
