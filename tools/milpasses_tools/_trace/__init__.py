"""The parts of ``trace``: what stands between the passes, and programs kept to be replayed."""
