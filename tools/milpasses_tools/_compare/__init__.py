"""The parts of ``compare``: who runs the models, what is measured, where errors arise."""
